"""CIFAR-10, from the files that torchvision keeps."""

from __future__ import annotations

from pathlib import Path

import torch

from carv_distill.errors import UserError

from .sets import ImageSpec, LabelledImages

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""By label, as the files' batches.meta has them."""
CIFAR10 = ImageSpec("cifar10", channels=3, size=32, classes=len(CLASSES), names=CLASSES)


def load_cifar10_images(root: str, split: str = "train") -> LabelledImages:
    """The 50,000 images to train on, or the 10,000 of the split `test`, as bytes, in the order of the files;
    `root` holds `cifar-10-batches-py`.

    torchvision compares every file with its published MD5 before it unpickles any. Nothing is downloaded.

    Raises:
        UserError: a file is missing or damaged; the message names it and says how to fetch them.

    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009).
    """
    from torchvision.datasets import CIFAR10 as FILES  # slow: other data sets do without it
    from torchvision.datasets.utils import check_integrity

    folder = Path(root, FILES.base_folder)
    for name, md5 in (*FILES.train_list, *FILES.test_list, (FILES.meta["filename"], FILES.meta["md5"])):
        if not check_integrity(folder / name, md5):
            what = "has another MD5 than the published file" if (folder / name).is_file() else "is missing"
            raise UserError(
                f"data.path: {folder / name} {what}; fetch CIFAR-10 with python -c "
                f"\"from torchvision.datasets import CIFAR10; CIFAR10('{root}', download=True)\""
            )
    files = FILES(root, train=split == "train", download=False)
    pixels = torch.from_numpy(files.data).permute(0, 3, 1, 2).contiguous()
    return LabelledImages(pixels, torch.tensor(files.targets), CIFAR10)
