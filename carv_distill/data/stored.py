"""Images in a folder or zip, in the layout of EDM's data sets, decoded when they are asked for."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from carv_distill.errors import UserError

from .spec import ImageSpec, from_uint8
from .storage import INDEX, Storage, open_storage

CHANNELS = {"L": 1, "RGB": 3}
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)
"""What Pillow raises at files that are cut short or are no images."""


class StoredImages:
    """An :class:`ImageSet` of files.

    Args:
        storage: where they lie.
        labels: int64 [N].
        spec: their shape, which each is held against when it is read.
    """

    decodes = True

    def __init__(self, storage: Storage, labels: Tensor, spec: ImageSpec) -> None:
        self.storage, self.labels, self.spec = storage, labels, spec

    def __len__(self) -> int:
        return len(self.storage)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels of some indices; see :meth:`ImageSet.batch`."""
        pixels = torch.stack([self.pixels(int(i)) for i in indices])
        return from_uint8(pixels), self.labels[indices]

    def pixels(self, number: int) -> Tensor:
        """One image, uint8 [C, S, S].

        Raises:
            UserError: it is damaged, or has another size or mode than the first one.
        """
        picture = _decode(self.storage, number)
        spec, (width, height) = self.spec, picture.size
        if (CHANNELS.get(picture.mode), height, width) != spec.shape:
            mode = next(m for m, c in CHANNELS.items() if c == spec.channels)
            raise UserError(
                f"{self.storage.path}: {self.storage.name(number)} is {picture.mode} {width}×{height}, the "
                f"first image, {self.storage.name(0)}, is {mode} {spec.size}×{spec.size}; all must be alike"
            )
        array = np.array(picture).reshape(height, width, -1)
        return torch.from_numpy(array).permute(2, 0, 1)


def load_stored_images(path: str, labels: bool = True) -> StoredImages:
    """The PNG and JPEG files of a folder, nested or not, or of a zip, in the order of their names.

    `dataset.json` beside them holds ``{"labels": [["00000/img00000000.png", 6], …]}``, or null for images
    without labels. Only the first image is decoded here.

    Args:
        path: the folder or zip.
        labels: without them `dataset.json` is not read.

    Raises:
        UserError: no such folder or zip, no images in it, a first image that is damaged, not square or
            neither grey nor RGB; or a `dataset.json` that is missing, malformed or incomplete.

    Source:
        the layout that EDM's `dataset_tool.py` writes (Karras et al., 2022).
    """
    storage = open_storage(path)
    picture = _decode(storage, 0)
    width, height = picture.size
    if picture.mode not in CHANNELS:
        allowed = ", ".join(CHANNELS)
        raise UserError(
            f"{path}: {storage.name(0)} has mode {picture.mode}; allowed are {allowed} (grey, colour)"
        )
    if width != height:
        raise UserError(f"{path}: {storage.name(0)} is {width}×{height}; images must be square")
    if labels:
        numbers, classes = _read_labels(storage)
    else:
        numbers, classes = torch.zeros(len(storage), dtype=torch.int64), 0
    spec = ImageSpec(Path(path).stem, CHANNELS[picture.mode], width, classes)
    return StoredImages(storage, numbers, spec)


def _decode(storage: Storage, number: int) -> Image.Image:
    content = storage.read(number)
    try:
        picture = Image.open(io.BytesIO(content))
        picture.load()
    except (*DAMAGE, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "of no known format" if unknown else " ".join(str(error).split())[:100]
        raise UserError(f"{storage.path}: {storage.name(number)} is no whole image ({reason})") from error
    return picture


def _read_labels(storage: Storage) -> tuple[Tensor, int]:
    """Labels int64 [N] and the number of classes."""
    where, content = f"{storage.path}: {INDEX}", storage.read_index()
    if content is None:
        raise UserError(
            f"{where} is missing, and with it the labels; data.labels=false takes the images without"
        )
    try:
        entries = json.loads(content)["labels"]
        by_name = None if entries is None else {name.replace("\\", "/"): label for name, label in entries}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{where} is not {{"labels": [["image.png", 0], …]}} or null') from error
    if by_name is None:
        return torch.zeros(len(storage), dtype=torch.int64), 0
    numbers = []
    for i in range(len(storage)):
        label = by_name.get(name := storage.name(i))
        if label is None:
            raise UserError(f"{where} has no label for {name}")
        if type(label) is not int or label < 0:
            raise UserError(f"{where} has the label {label!r} for {name}; whole numbers from 0 are allowed")
        numbers.append(label)
    classes = max(numbers) + 1
    unused = set(range(min(classes, len(numbers) + 1))).difference(numbers)
    if unused:
        raise UserError(
            f"{where} has labels up to {classes - 1}, but no image with label {min(unused)}; "
            "they must be 0 … n−1"
        )
    return torch.tensor(numbers), classes
