"""The files of a data set, in a folder or zip: which of them are wanted, and what is in each."""

from __future__ import annotations

import os
import posixpath
import struct
import unicodedata
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from carv_distill.errors import UserError, one_line
from carv_distill.walk import walk


@dataclass(frozen=True)
class FileKind:
    """Files that a data set is made of, by their suffixes, in lower case."""

    name: str
    """What messages call one of them."""
    suffixes: tuple[str, ...]
    """Of the files that are read."""
    unread: tuple[str, ...] = ()
    """Of such files as are not: named, where a data set would otherwise be smaller than its owner thinks."""


PICTURES = FileKind(
    "picture",
    (".png", ".jpg", ".jpeg", ".webp", ".bmp"),  # in the formats of pictures.FORMATS
    (
        *(".gif", ".apng", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jfif", ".jpe", ".jp2", ".jxl"),
        *(".dib", ".ppm", ".pgm", ".pnm", ".tga", ".ico", ".psd", ".dng", ".cr2", ".nef", ".exr", ".hdr"),
        ".svg",
    ),
)
CLIPS = FileKind(
    "clip",
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"),  # by the demuxers of frames.DEMUXERS
    (
        *(".gif", ".wmv", ".asf", ".flv", ".f4v", ".mpg", ".mpeg", ".m2v", ".ts", ".mts", ".m2ts", ".vob"),
        *(".ogv", ".3gp", ".3g2", ".rm", ".rmvb", ".mxf", ".y4m"),
    ),
)
INDEX = "dataset.json"
LARGEST_FILE = 1 << 28
"""Bytes of an image's file once it is inflated: more than any picture needs that is read here."""
LARGEST_INDEX = 1 << 30
_LEFT_BY_OTHERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
"""Folders that macOS, Synology, Windows and Linux leave beside files; what is in them looks like images, or
nobody may enter them."""
_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Of a zip's member: signature, lengths of name and extra field."""
_UTF8 = 0x800
"""The flag of a zip's member whose name is in UTF-8."""


def path_key(name: str) -> str:
    """A path for comparison: forward slashes, no ./, composed characters (NFC), as `dataset.json` may have
    them otherwise than the disk of the machine where the images lie."""
    return unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")))


class Storage(ABC):
    """Files of one kind, its images as a rule, by number in the order of their names, and `dataset.json`
    beside them.

    Files and folders with a dot before their name, and what operating systems leave, are passed over. Where
    `dataset.json` lies in one folder with all the images, that folder is the data set.

    Args:
        files: paths inside the folder or zip, with forward slashes.
        kind: which of them are wanted.

    Raises:
        UserError: two files of one name, or one of the kind, but of a format that is not read.
    """

    def __init__(self, path: Path, files: Sequence[str], kind: FileKind = PICTURES) -> None:
        self.path, self.kind = path, kind
        names = [name for name in files if name.lower().endswith(kind.suffixes)]
        _refuse_unread(path, files, kind)
        keys = {path_key(name) for name in names}
        if len(keys) < len(names):
            ((twice, _),) = Counter(map(path_key, names)).most_common(1)
            raise UserError(f"data.path: {path} holds two files of one name, {twice}")
        indices = sorted(path_key(name) for name in files if posixpath.basename(name) == INDEX)
        self._top = _top(keys, indices)
        self.other_index = indices[0] if indices and self._top + INDEX not in indices else None
        """A `dataset.json` that does not lie where it is read."""
        # As bytes in one array: a million Python strings would be copied into every worker, one by one, as
        # their reference counts change.
        names_utf8 = sorted(name.encode("utf-8", "surrogateescape") for name in names)
        self._names: Any = np.array(names_utf8, dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, number: int) -> str:
        """Path inside the folder or zip, with forward slashes."""
        return bytes(self._names[number]).decode("utf-8", "surrogateescape")

    def key(self, number: int) -> str:
        """The path that `dataset.json` has, by :func:`path_key`."""
        return path_key(self.name(number)).removeprefix(self._top)

    @abstractmethod
    def read(self, number: int) -> bytes:
        """What is in the file; UserError where it cannot be read."""

    def open(self, number: int) -> BinaryIO:
        """The file, to be read in parts; UserError where it cannot be read."""
        return BytesIO(self.read(number))

    @abstractmethod
    def size(self, number: int) -> int:
        """Bytes of the file."""

    @abstractmethod
    def stamp(self, number: int) -> int:
        """What changes when the file does: its time or a checksum."""

    @abstractmethod
    def read_index(self) -> bytes | None:
        """What is in `dataset.json`, if there is one."""


def _refuse_unread(path: Path, files: Sequence[str], kind: FileKind) -> None:
    others = sorted(name for name in files if kind.unread and name.lower().endswith(kind.unread))
    if others:
        more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
        raise UserError(
            f"data.path: {path} holds {others[0]}{more}, of a format that is not read (allowed: "
            f"{', '.join(kind.suffixes)}); convert what belongs to the data, and take the others out"
        )


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder above it, is one that data sets pass over."""
    return any(part.startswith(".") or part in _LEFT_BY_OTHERS for part in name.split("/"))


def _top(keys: set[str], indices: Sequence[str]) -> str:
    """The path, with its slash, of the one folder that has `dataset.json` and all the images; else none."""
    if len(indices) == 1:
        top = indices[0].removesuffix(INDEX)
        if all(key.startswith(top) for key in keys):
            return top
    return ""


class FolderFiles(Storage):
    """A folder, with all that is below it, linked folders too.

    Raises:
        UserError: a folder below it that cannot be entered, or a link that leads nowhere, perhaps to one:
            without it the set would be smaller, and its classes would have other numbers.
    """

    def __init__(self, path: Path, kind: FileKind = PICTURES) -> None:
        files = []
        for folder, folders, names in walk(path):
            folders[:] = [name for name in folders if not is_hidden(name)]
            place = os.path.relpath(folder, path).replace(os.sep, "/")
            names = [name for name in names if not is_hidden(name)]
            for name in names:  # a file of the kind is named when it is read
                link = folder / name
                if not name.lower().endswith(kind.suffixes) and not link.exists():
                    raise UserError(
                        f"data.path: {link} is a link that leads nowhere ({os.readlink(link)}); mount what "
                        "it leads to, or take it out"
                    )
            files += [posixpath.normpath(f"{place}/{name}") for name in names]
        super().__init__(path, files, kind)

    def read(self, number: int) -> bytes:
        return self._read(self.path / self.name(number))

    def open(self, number: int) -> BinaryIO:
        file = self._plain(self.path / self.name(number))
        try:
            return file.open("rb")
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror})") from error

    def size(self, number: int) -> int:
        return (self.path / self.name(number)).stat().st_size

    def stamp(self, number: int) -> int:
        return (self.path / self.name(number)).stat().st_mtime_ns

    def read_index(self) -> bytes | None:
        file = self.path / self._top / INDEX
        return self._read(file) if file.is_file() else None

    def _plain(self, file: Path) -> Path:
        if file.exists() and not file.is_file():
            raise UserError(f"{file}: cannot be read (it is no file)")  # a pipe would be waited for
        return file

    def _read(self, file: Path) -> bytes:
        try:
            return self._plain(file).read_bytes()
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror})") from error


class ZipFiles(Storage):
    """A zip, whose members are read by their place in it.

    The directory of a zip of a million files takes seconds and a gigabyte to hold as Python objects, so that
    every worker could not open it for itself. Here the parent keeps it as arrays, and `os.pread` reads
    without a common position: forked processes and threads share one descriptor safely.
    """

    def __init__(self, path: Path, kind: FileKind = PICTURES) -> None:
        self._descriptor: int | None = None
        try:
            with zipfile.ZipFile(path) as file:
                infos = [m for m in file.infolist() if not m.is_dir()]
        except (zipfile.BadZipFile, zlib.error, struct.error, OSError, ValueError, RuntimeError) as error:
            raise UserError(f"data.path: {path} is not a whole zip file ({one_line(error)})") from error
        members: dict[str, zipfile.ZipInfo] = {}
        known = (*kind.suffixes, *kind.unread)
        for m in infos:
            name = _member_name(m)
            wanted = name.lower().endswith(known) or posixpath.basename(name) == INDEX
            if not wanted or is_hidden(name):
                continue
            if name in members:
                raise UserError(f"data.path: {path} holds {name} twice")
            members[name] = m
        super().__init__(path, list(members), kind)
        size = path.stat().st_size
        self._places = np.empty((len(self), 5), dtype=np.int64)
        for number in range(len(self)):
            self._places[number] = self._place(members[self.name(number)], size, LARGEST_FILE)
        found = [m for name, m in members.items() if path_key(name) == self._top + INDEX]
        self._index_place = self._place(found[0], size, LARGEST_INDEX) if found else None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptor": None}

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]

    def _place(self, m: zipfile.ZipInfo, size: int, largest: int) -> tuple[int, int, int, int, int]:
        """Offset, packed and whole size, checksum and method, where a member can be read."""
        if m.flag_bits & 1 or m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{self.path}: {m.filename} is encrypted or neither stored nor deflated")
        if m.file_size > largest:
            raise UserError(
                f"{self.path}: {m.filename} would inflate from {m.compress_size:,} to {m.file_size:,} bytes; "
                f"at most {largest:,} are read"
            )
        if m.header_offset + m.compress_size > size:
            raise UserError(f"{self.path}: {m.filename} is damaged (it ends beyond the file)")
        return m.header_offset, m.compress_size, m.file_size, m.CRC, m.compress_type

    def read(self, number: int) -> bytes:
        return self._read(self.name(number), *(int(n) for n in self._places[number]))

    def size(self, number: int) -> int:
        return int(self._places[number, 2])

    def stamp(self, number: int) -> int:
        return int(self._places[number, 3])

    def read_index(self) -> bytes | None:
        return None if self._index_place is None else self._read(INDEX, *self._index_place)

    def _read(self, name: str, offset: int, packed: int, size: int, crc: int, method: int) -> bytes:
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDONLY)
            header = os.pread(self._descriptor, _LOCAL_HEADER.size, offset)
            signature, name_length, extra = _LOCAL_HEADER.unpack(header)
            place = offset + _LOCAL_HEADER.size + name_length + extra
            content = os.pread(self._descriptor, packed, place)
            if method == zipfile.ZIP_DEFLATED:
                # not more than was said, whatever is in it
                content = zlib.decompressobj(wbits=-15).decompress(content, size + 1)
        except (OSError, struct.error, zlib.error) as error:
            raise UserError(f"{self.path}: {name} cannot be read ({error})") from error
        if signature != b"PK\x03\x04" or len(content) != size or zlib.crc32(content) != crc:
            raise UserError(f"{self.path}: {name} is damaged (its checksum is another)")
        return content


def _member_name(m: zipfile.ZipInfo) -> str:
    """A member's path with forward slashes. Many programs write UTF-8 and do not say so, as macOS does; the
    name then was decoded as a code page of DOS."""
    name = m.filename
    if not m.flag_bits & _UTF8:
        with suppress(UnicodeError):  # a name in that code page indeed
            name = name.encode("cp437").decode("utf-8")
    return posixpath.normpath(name.replace("\\", "/"))
