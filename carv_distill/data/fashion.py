"""Fashion-MNIST: 60,000 pictures of clothes to learn from and 10,000 to test by, from torchvision's files."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F

from carv_distill.errors import UserError

from .idx import read_idx
from .sets import ImageSpec, LabelledImages

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""By label."""
FASHION_MNIST = ImageSpec("fashion_mnist", channels=1, size=32, classes=len(CLASSES), names=CLASSES)
LAYOUTS = ("", "FashionMNIST/raw", "usr/share/datasets/fashion-mnist")
"""Where files lie below a folder: in it, where torchvision puts them, and in Debian's package unpacked."""
SIDE = 28
"""Pixels of the files' pictures; two more on each side make 32, which halves five times."""
HALVES = {"train": "train", "test": "t10k"}


def load_fashion_mnist_images(path: str, split: str = "train") -> LabelledImages:
    """A half of Fashion-MNIST as bytes, in the order of the files: uint8 [N, 1, 32, 32], with a margin of two
    pixels of the background's value, which is exactly black (0), and labels 0..9.

    Args:
        path: a folder that holds ``train-images-idx3-ubyte`` and its three sisters, each plain or .gz, in one
            of :data:`LAYOUTS`.
        split: train | test.

    Raises:
        UserError: a file is missing or damaged, or the two do not go together.

    Source: Xiao, Rasul and Vollgraf, Fashion-MNIST (2017), MIT licence.
    """
    images_file = _find(path, f"{HALVES[split]}-images-idx3-ubyte")
    labels_file = _find(path, f"{HALVES[split]}-labels-idx1-ubyte")
    pixels, labels = read_idx(images_file, 3), read_idx(labels_file, 1).long()
    if pixels.shape[1:] != (SIDE, SIDE):
        height, width = pixels.shape[1:]
        raise UserError(f"{images_file} has pictures of {height}×{width}; those of Fashion-MNIST are 28×28")
    if len(labels) != len(pixels):
        raise UserError(
            f"{labels_file} has {len(labels):,} labels, {images_file.name} beside it {len(pixels):,} pictures"
        )
    if len(labels) and int(labels.max()) >= len(CLASSES):
        raise UserError(
            f"{labels_file} has the label {int(labels.max())}; allowed are 0 … {len(CLASSES) - 1}"
        )
    margin = (FASHION_MNIST.size - SIDE) // 2
    return LabelledImages(F.pad(pixels, (margin,) * 4)[:, None], labels, FASHION_MNIST)


def _find(path: str, name: str) -> Path:
    """The file, unpacked or not, in the first layout that has it."""
    for layout in LAYOUTS:
        for file in (Path(path, layout, name), Path(path, layout, f"{name}.gz")):
            if file.is_file():
                return file
    places = " nor ".join(str(Path(path, layout)) for layout in LAYOUTS)
    raise UserError(
        f"data.path: neither {places} has {name} or {name}.gz; fetch Fashion-MNIST with python -c "
        f"\"from torchvision.datasets import FashionMNIST; FashionMNIST('{path}', download=True)\""
    )
