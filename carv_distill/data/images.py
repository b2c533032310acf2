"""From a configuration to the images."""

from __future__ import annotations

from typing import overload

from carv_distill.errors import UserError

from .digits import load_digits_images
from .options import DATA_SETS as NAMES
from .options import NEED_PATH, DataOptions
from .sets import Mirrored, Unlabelled
from .spec import ImageSet, LabelledImages

IN_MEMORY = tuple(name for name in NAMES if name not in NEED_PATH)
"""The data sets that need no file."""


@overload
def load_images(source: str) -> LabelledImages: ...


@overload
def load_images(source: DataOptions) -> ImageSet: ...


def load_images(source: str | DataOptions) -> ImageSet:
    """A data set, by the name of one that needs no file, or as a configuration describes it.

    Raises:
        UserError: no such data set (the message lists those there are), a path that is missing or not needed,
            or files that are missing or damaged.
    """
    options = DataOptions(source) if isinstance(source, str) else source
    images: ImageSet = _read(options)
    if not options.labels:
        images = Unlabelled(images)
    return Mirrored(images) if options.flip else images


def _read(options: DataOptions) -> ImageSet:
    name, path = options.name, options.path
    if name not in NAMES:
        raise UserError(f"data.name: no data set {name!r}; allowed: {', '.join(NAMES)}")
    if name in IN_MEMORY and path is not None:
        raise UserError(
            f"data.path: {path} is given, but data.name: {name} is made in memory "
            f"(a path goes with {', '.join(NEED_PATH)})"
        )
    match name:
        case "digits":
            return load_digits_images()
        case "solids":
            from .solids import load_solids_images

            return load_solids_images()
        case "cifar10":
            from .cifar import load_cifar10_images

            if path is None:
                raise UserError(
                    "data.path: data.name: cifar10 needs the folder that holds cifar-10-batches-py; fetch it "
                    "with python -c \"from torchvision.datasets import CIFAR10; CIFAR10('data', "
                    'download=True)" and give data.path=data'
                )
            return load_cifar10_images(path)
    from .stored import load_stored_images

    if path is None:
        raise UserError(
            "data.path: data.name: images needs a folder or zip of square PNG or JPEG files, as EDM's "
            "dataset_tool.py writes them; give data.path=…"
        )
    return load_stored_images(path, options.labels)
