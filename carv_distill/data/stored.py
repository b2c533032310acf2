"""Images in a folder or zip, in the layout of EDM's data sets, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from carv_distill.errors import UserError

from .labels import Labels, read_known_labels, read_labels
from .pictures import CHANNELS, open_picture, upright_picture
from .sets import ImageSpec, from_uint8
from .storage import PICTURES, FolderFiles, Storage, ZipFiles

LOOKED_AT = 64
"""Images that are read when a set is opened, so that most faults are found before a run."""


class StoredImages:
    """An :class:`~.sets.ImageSet` of files; each is held against `spec` when it is read.

    Args:
        convert: see :func:`~.pictures.upright_picture`.
    """

    decodes = True

    def __init__(self, storage: Storage, labels: Tensor, spec: ImageSpec, convert: str = "none") -> None:
        self.storage, self.labels, self.spec, self.convert = storage, labels, spec, convert

    def __len__(self) -> int:
        return len(self.storage)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        pixels = torch.stack([self.pixels(int(i)) for i in indices])
        return from_uint8(pixels), self.labels[indices]

    def pixels(self, number: int) -> Tensor:
        """One image, uint8 [C, S, S].

        Raises:
            UserError: it has another size or mode than the first one.
        """
        where = _where(self.storage, number)
        picture = open_picture(self.storage.read(number), where)
        spec, (width, height) = self.spec, picture.size
        if (width, height) == (spec.size, spec.size):  # before it is decoded, which may take gigabytes
            picture = upright_picture(picture, where, self.convert)
        if (CHANNELS.get(picture.mode), height, width) != spec.shape:
            mode = next(m for m, c in CHANNELS.items() if c == spec.channels)
            remedy = "" if (height, width) != spec.shape[1:] else "; data.convert=rgb makes colours of all"
            raise UserError(
                f"{where} is {picture.mode} {width}×{height}, the first image, {self.storage.name(0)}, is "
                f"{mode} {spec.size}×{spec.size}; all must be alike{remedy}"
            )
        array = np.array(picture).reshape(height, width, -1)
        return torch.from_numpy(array).permute(2, 0, 1)


def load_stored_images(
    path: str, labels: bool = True, convert: str = "none", classes: Sequence[str] | None = None
) -> StoredImages:
    """The pictures (:data:`~.storage.PICTURES`) of a folder, nested or not, or of a zip, in the order of
    their names.

    `dataset.json` beside them holds ``{"labels": [["00000/img00000000.png", 6], …]}``, or null for images
    without labels. Where there is none, folders are the classes; see :mod:`.labels`. Some images of all parts
    of the set are read here, the others as they are wanted.

    Args:
        labels: without them `dataset.json` is not read.
        convert: see :func:`~.pictures.upright_picture`.
        classes: of the training set that these images are not part of, but lie beside: their labels are some
            of its.

    Raises:
        UserError: nothing there, no images in it, or images that are not square, alike, and grey or RGB.

    Source: the layout that EDM's `dataset_tool.py` writes (Karras et al., 2022).
    """
    place = Path(path)
    if not place.is_dir() and not place.is_file():
        raise UserError(f"data.path: {path} does not exist; a folder or zip of pictures is needed")
    storage = FolderFiles(place) if place.is_dir() else ZipFiles(place)
    if not len(storage):
        raise UserError(f"data.path: {path} holds no images ({', '.join(PICTURES.suffixes)})")
    where = _where(storage, 0)
    picture = open_picture(storage.read(0), where)
    width, height = picture.size
    if width != height:
        raise UserError(f"{where} is {width}×{height}; images must be square: crop or pad them")
    channels = CHANNELS[upright_picture(picture, where, convert).mode]
    given = _labels(storage, classes) if labels else None
    numbers = torch.zeros(len(storage), dtype=torch.int64) if given is None else torch.tensor(given.numbers)
    count, names = (0, ()) if given is None else (int(numbers.max()) + 1, given.names)
    found = StoredImages(storage, numbers, ImageSpec(place.stem, channels, width, count, names), convert)
    for number in spread(len(storage)):
        found.pixels(number)
    return found


def _labels(storage: Storage, classes: Sequence[str] | None) -> Labels | None:
    if classes is None:
        return read_labels(storage)
    return Labels(read_known_labels(storage, classes), tuple(classes))


def spread(count: int, most: int = LOOKED_AT) -> list[int]:
    """Numbers from all parts of 0 … count−1, at most so many."""
    return torch.linspace(0, count - 1, min(most, count)).long().tolist()


def _where(storage: Storage, number: int) -> str:
    return f"{storage.path}: {storage.name(number)}"
