"""Images in a folder or zip, in the layout of EDM's data sets, decoded when they are asked for."""

from __future__ import annotations

import json
import logging
import posixpath
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from carv_distill.errors import UserError, shown

from .pictures import CHANNELS, open_picture, upright_picture
from .sets import ImageSpec, from_uint8
from .storage import INDEX, PICTURES, FolderFiles, Storage, ZipFiles, path_key

log = logging.getLogger(__name__)

LOOKED_AT = 64
"""Images that are read when a set is opened, so that most faults are found before a run."""

PARTS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"}
"""Names of folders that hold parts of a data set, in small letters."""


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
    path: str, labels: bool = True, convert: str = "none", every_label: bool = True
) -> StoredImages:
    """The pictures (:data:`~.storage.PICTURES`) of a folder, nested or not, or of a zip, in the order of
    their names.

    `dataset.json` beside them holds ``{"labels": [["00000/img00000000.png", 6], …]}``, or null for images
    without labels. Where there is none, folders of classes are numbered by :func:`class_folders`. Some images
    of all parts of the set are read here, the others as they are wanted.

    Args:
        labels: without them `dataset.json` is not read.
        convert: see :func:`~.pictures.upright_picture`.
        every_label: refuse labels that are left out, which in a training set is a mistake.

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
        raise UserError(f"{where} is {width}×{height}; images must be square")
    channels = CHANNELS[upright_picture(picture, where, convert).mode]
    numbers, classes = torch.zeros(len(storage), dtype=torch.int64), 0
    if labels and (in_index := _read_labels(storage, every_label)):
        numbers, classes = torch.tensor(in_index), max(in_index) + 1
    found = StoredImages(storage, numbers, ImageSpec(place.stem, channels, width, classes), convert)
    for number in spread(len(storage)):
        found.pixels(number)
    return found


def spread(count: int, most: int = LOOKED_AT) -> list[int]:
    """Numbers from all parts of 0 … count−1, at most so many."""
    return torch.linspace(0, count - 1, min(most, count)).long().tolist()


def _where(storage: Storage, number: int) -> str:
    return f"{storage.path}: {storage.name(number)}"


def class_folders(storage: Storage) -> tuple[list[str], list[int]] | None:
    """Names of the folders that images lie in, one for each class, and each image's number among them: in the
    order of the names, of numbers by their size. None where they do not lie so: an image beside the folders,
    a single folder, or parts of a large set as EDM's `dataset_tool.py` numbers them, 00000, 00001, …
    """
    places = [posixpath.dirname(storage.key(i)) for i in range(len(storage))]
    above = posixpath.commonpath(places) if all(places) else ""
    of = [place.removeprefix(above).strip("/").split("/")[0] for place in places]
    found = set(of)
    if "" in found or len(found) < 2 or all(re.fullmatch(r"\d{5}", name) for name in found):
        return None
    decimal = all(name.isdecimal() for name in found)
    names = sorted(found, key=(lambda name: (int(name), name)) if decimal else None)
    number = {name: i for i, name in enumerate(names)}
    return names, [number[name] for name in of]


def _refuse_parts(storage: Storage, names: list[str]) -> None:
    """Folders of the parts of a set would be taken for its classes."""
    if {name.lower() for name in names} <= PARTS:
        raise UserError(
            f"{storage.path} holds {', '.join(names)}, which are parts of a data set and no classes; give "
            "the folder of one of them, or data.labels=false for all its pictures without labels"
        )


def _numbered(names: list[str], most: int = 10) -> str:
    shown_names = ", ".join(f"{i} {name}" for i, name in enumerate(names[:most]))
    return shown_names + (f", … {len(names) - 1} {names[-1]}" if len(names) > most else "")


def _read_labels(storage: Storage, every_label: bool) -> list[int] | None:
    """N labels in 0 … n−1, each of which is there if that is asked; None where the file says that there are
    none."""
    where, content = f"{storage.path}: {INDEX}", storage.read_index()
    if content is None:
        if every_label and not storage.other_index and (folders := class_folders(storage)):
            names, numbers = folders
            _refuse_parts(storage, names)
            log.info("labels of %s by folder: %s", storage.path, _numbered(names))
            return numbers
        there = f" (there is {storage.other_index})" if storage.other_index else ""
        remedy = "a folder for each class does, too; a run takes the images without by data.labels=false"
        raise UserError(
            f'{where} is missing{there}, and with it the labels, as {{"labels": [["a.png", 3], ...]}}; '
            + (remedy if every_label else "they are the numbers of the training set's classes")
        )
    by_name: dict[str, object] = {}
    try:
        entries = json.loads(content)["labels"]
        for name, label in [] if entries is None else entries:
            if (key := path_key(name)) in by_name:
                raise UserError(f"{where} lists {name} twice; each image has one label")
            by_name[key] = label
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f'{where} is not {{"labels": [["image.png", 0], …]}} or null') from error
    if entries is None:
        return None
    numbers = []
    for i in range(len(storage)):
        label = by_name.get(storage.key(i))
        if label is None:
            raise UserError(f"{where} has no label for {storage.name(i)}")
        if type(label) is not int or label < 0:
            found = shown(label)
            raise UserError(
                f"{where} has the label {found} for {storage.name(i)}; whole numbers from 0 are allowed"
            )
        numbers.append(label)
    largest = max(numbers)
    unused = set(range(min(largest + 1, len(numbers) + 1))).difference(numbers)
    if every_label and unused:
        raise UserError(
            f"{where} has labels up to {largest}, but no image with label {min(unused)}; they must be 0 … n−1"
        )
    return numbers
