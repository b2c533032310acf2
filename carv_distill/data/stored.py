"""Images in a folder or zip, in the layout of EDM's data sets, decoded when they are asked for."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from carv_distill.errors import UserError, one_line

from .sets import ImageSpec, from_uint8

SUFFIXES = (".png", ".jpg", ".jpeg")
INDEX = "dataset.json"
LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Of a zip's member: signature, lengths of name and extra field."""
CHANNELS = {"L": 1, "RGB": 3}
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)
"""What Pillow raises at files that are cut short or are no images."""


class Storage(ABC):
    """Image files, by number in the order of their names, and `dataset.json` beside them."""

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self.path = path
        # As bytes in one array: a million Python strings would be copied into every worker, one by one, as
        # their reference counts change.
        names_utf8 = sorted(name.encode("utf-8", "surrogateescape") for name in names)
        self._names: Any = np.array(names_utf8, dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, number: int) -> str:
        """Path inside the folder or zip, with forward slashes."""
        return bytes(self._names[number]).decode("utf-8", "surrogateescape")

    @abstractmethod
    def read(self, number: int) -> bytes:
        """What is in the file; UserError where it cannot be read."""

    @abstractmethod
    def read_index(self) -> bytes | None:
        """What is in `dataset.json`, if there is one."""


class FolderFiles(Storage):
    """A folder, with all that is below it."""

    def __init__(self, path: Path) -> None:
        files = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
        images = (file for file in files if file.lower().endswith(SUFFIXES))
        super().__init__(path, (os.path.relpath(file, path).replace(os.sep, "/") for file in images))

    def read(self, number: int) -> bytes:
        file = self.path / self.name(number)
        try:
            return file.read_bytes()
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror})") from error

    def read_index(self) -> bytes | None:
        file = self.path / INDEX
        return file.read_bytes() if file.is_file() else None


class ZipFiles(Storage):
    """A zip, whose members are read by their place in it.

    The directory of a zip of a million files takes seconds and a gigabyte to hold as Python objects, so that
    every worker could not open it for itself. Here the parent keeps it as arrays, and `os.pread` reads
    without a common position: forked processes and threads share one descriptor safely.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = None
        try:
            with zipfile.ZipFile(path) as file:
                members = {m.filename: m for m in file.infolist() if m.filename.lower().endswith(SUFFIXES)}
                self._index = file.read(INDEX) if INDEX in file.NameToInfo else None
        except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError) as error:
            raise UserError(f"data.path: {path} is not a whole zip file ({error})") from error
        super().__init__(path, members)
        self._places = np.empty((len(members), 5), dtype=np.int64)
        for number in range(len(members)):
            m = members[self.name(number)]
            encrypted = m.flag_bits & 1
            if encrypted or m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError(f"{path}: {m.filename} is encrypted or neither stored nor deflated")
            self._places[number] = m.header_offset, m.compress_size, m.file_size, m.CRC, m.compress_type

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptor": None}

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]

    def read(self, number: int) -> bytes:
        offset, packed, size, crc, method = (int(n) for n in self._places[number])
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDONLY)
            header = os.pread(self._descriptor, LOCAL_HEADER.size, offset)
            signature, name, extra = LOCAL_HEADER.unpack(header)
            content = os.pread(self._descriptor, packed, offset + LOCAL_HEADER.size + name + extra)
            if method == zipfile.ZIP_DEFLATED:
                content = zlib.decompress(content, wbits=-15)
        except (OSError, struct.error, zlib.error) as error:
            raise UserError(f"{self.path}: {self.name(number)} cannot be read ({error})") from error
        if signature != b"PK\x03\x04" or len(content) != size or zlib.crc32(content) != crc:
            raise UserError(f"{self.path}: {self.name(number)} is damaged (its checksum is another)")
        return content

    def read_index(self) -> bytes | None:
        return self._index


class StoredImages:
    """An :class:`~.sets.ImageSet` of files; each is held against `spec` when it is read."""

    decodes = True

    def __init__(self, storage: Storage, labels: Tensor, spec: ImageSpec) -> None:
        self.storage, self.labels, self.spec = storage, labels, spec

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
        labels: without them `dataset.json` is not read.

    Raises:
        UserError: nothing there, no images in it, or a first image that is not square, grey or RGB.

    Source: the layout that EDM's `dataset_tool.py` writes (Karras et al., 2022).
    """
    place = Path(path)
    if not place.is_dir() and not place.is_file():
        raise UserError(f"data.path: {path} does not exist; a folder or zip of PNG or JPEG files is needed")
    storage = FolderFiles(place) if place.is_dir() else ZipFiles(place)
    if not len(storage):
        raise UserError(f"data.path: {path} holds no images ({', '.join(SUFFIXES)})")
    picture = _decode(storage, 0)
    width, height = picture.size
    if picture.mode not in CHANNELS:
        allowed = ", ".join(CHANNELS)
        raise UserError(
            f"{path}: {storage.name(0)} has mode {picture.mode}; allowed are {allowed} (grey, colour)"
        )
    if width != height:
        raise UserError(f"{path}: {storage.name(0)} is {width}×{height}; images must be square")
    numbers, classes = torch.zeros(len(storage), dtype=torch.int64), 0
    if labels and (in_index := _read_labels(storage)):
        numbers, classes = torch.tensor(in_index), max(in_index) + 1
    return StoredImages(storage, numbers, ImageSpec(place.stem, CHANNELS[picture.mode], width, classes))


def _decode(storage: Storage, number: int) -> Image.Image:
    content = storage.read(number)
    try:
        picture = Image.open(io.BytesIO(content))
        picture.load()
    except (*DAMAGE, Image.DecompressionBombError) as error:
        reason = "of no known format" if isinstance(error, UnidentifiedImageError) else one_line(error, 100)
        raise UserError(f"{storage.path}: {storage.name(number)} is no whole image ({reason})") from error
    return picture


def _read_labels(storage: Storage) -> list[int] | None:
    """N labels in 0 … n−1, each of which is there; None where the file says that there are none."""
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
        return None
    numbers = []
    for i in range(len(storage)):
        label = by_name.get(name := storage.name(i))
        if label is None:
            raise UserError(f"{where} has no label for {name}")
        if type(label) is not int or label < 0:
            raise UserError(f"{where} has the label {label!r} for {name}; whole numbers from 0 are allowed")
        numbers.append(label)
    largest = max(numbers)
    unused = set(range(min(largest + 1, len(numbers) + 1))).difference(numbers)
    if unused:
        raise UserError(
            f"{where} has labels up to {largest}, but no image with label {min(unused)}; they must be 0 … n−1"
        )
    return numbers
