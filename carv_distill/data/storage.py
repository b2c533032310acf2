"""The files of a data set in a folder or a zip, found without being read."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from carv_distill.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg")
INDEX = "dataset.json"
LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Of a zip's member: signature, lengths of name and extra field."""


class Storage(Protocol):
    """Image files, by number in the order of their names, and the index beside them."""

    path: Path

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """Path inside the folder or zip, with forward slashes."""
        ...

    def read(self, number: int) -> bytes:
        """What is in the file; UserError where it cannot be read."""
        ...

    def read_index(self) -> bytes | None:
        """What is in `dataset.json`, if there is one."""
        ...


def open_storage(path: str) -> Storage:
    """The storage at a path.

    Raises:
        UserError: nothing there, no zip, or no images in it.
    """
    place = Path(path)
    storage: Storage
    if place.is_dir():
        storage = FolderFiles(place)
    elif place.is_file():
        storage = ZipFiles(place)
    else:
        raise UserError(f"data.path: {path} does not exist; a folder or zip of PNG or JPEG files is needed")
    if not len(storage):
        raise UserError(f"data.path: {path} holds no images ({', '.join(SUFFIXES)})")
    return storage


def _names(found: Iterable[str]) -> Any:
    """As bytes in one array: a million Python strings would be copied into every worker, one by one, as their
    reference counts change."""
    return np.array(sorted(name.encode("utf-8", "surrogateescape") for name in found), dtype=np.bytes_)


class FolderFiles:
    """A folder, with all that is below it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = _names(
            os.path.relpath(os.path.join(folder, name), path).replace(os.sep, "/")
            for folder, _, names in os.walk(path)
            for name in names
            if name.lower().endswith(SUFFIXES)
        )

    def __len__(self) -> int:
        return len(self._files)

    def name(self, number: int) -> str:
        """Path below the folder."""
        return bytes(self._files[number]).decode("utf-8", "surrogateescape")

    def read(self, number: int) -> bytes:
        """What is in the file."""
        file = self.path / self.name(number)
        try:
            return file.read_bytes()
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror})") from error

    def read_index(self) -> bytes | None:
        """What is in `dataset.json`, if there is one."""
        file = self.path / INDEX
        return file.read_bytes() if file.is_file() else None


class ZipFiles:
    """A zip, whose members are read by their place in it.

    The directory of a zip of a million files takes seconds and a gigabyte to hold as Python objects, so that
    every worker could not open it for itself. Here the parent keeps it as arrays, and `os.pread` reads
    without a common position: forked processes and threads share one descriptor safely.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        try:
            with zipfile.ZipFile(path) as file:
                members = {m.filename: m for m in file.infolist() if m.filename.lower().endswith(SUFFIXES)}
                self._index = file.read(INDEX) if INDEX in file.NameToInfo else None
        except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError) as error:
            raise UserError(f"data.path: {path} is not a whole zip file ({error})") from error
        self._files = _names(members)
        self._places = np.empty((len(members), 5), dtype=np.int64)
        for number in range(len(members)):
            m = members[self.name(number)]
            encrypted = m.flag_bits & 1
            if encrypted or m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError(f"{path}: {m.filename} is encrypted or neither stored nor deflated")
            self._places[number] = m.header_offset, m.compress_size, m.file_size, m.CRC, m.compress_type

    def __len__(self) -> int:
        return len(self._files)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptor": None}

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]

    def name(self, number: int) -> str:
        """Path inside the zip."""
        return bytes(self._files[number]).decode("utf-8", "surrogateescape")

    def read(self, number: int) -> bytes:
        """What is in the member; its checksum is compared."""
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
        """What is in `dataset.json`, if there is one."""
        return self._index
