"""Webdataset shards: tar files whose members are read by their place."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from carv_distill.errors import UserError, one_line

from .storage import LARGEST_FILE, PICTURES, FileKind, Storage, is_hidden

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, eq=False)
class Shards:
    """What is in tar files: their headers, read once."""

    path: Path
    """The folder of the tar files, or the only one."""
    files: Sequence[Path]
    places: dict[str, tuple[int, int, int]]
    """Of a member `shard/key.suffix`: the number of its file, its first byte and its bytes."""

    @classmethod
    def scan(cls, path: Path, files: Sequence[Path], suffixes: tuple[str, ...]) -> Shards:
        """Members `key.suffix` of these suffixes; a key has no dot, by webdataset's rule, so that the
        `key.seg.png` of another thing than the picture is passed over.

        Raises:
            UserError: no whole tar file, or a member that is no plain file, is too large, or is there twice.
        """
        places: dict[str, tuple[int, int, int]] = {}
        for number, file in enumerate(files):
            top = file.relative_to(path).as_posix() if file != path else file.name
            for member in _members(file):
                name = posixpath.normpath(member.name.replace("\\", "/"))
                base = posixpath.basename(name)
                if base.count(".") != 1 or not base.lower().endswith(suffixes) or is_hidden(name):
                    continue
                if not member.isreg() or member.issparse():
                    raise UserError(f"{file}: {name} is a link or another thing than a plain file")
                if member.size > LARGEST_FILE:
                    raise UserError(
                        f"{file}: {name} has {member.size:,} bytes; at most {LARGEST_FILE:,} are read"
                    )
                if (full := f"{top}/{name}") in places:
                    raise UserError(f"{file} holds {name} twice")
                places[full] = number, member.offset_data, member.size
        return cls(path, files, places)


def _members(file: Path) -> list[tarfile.TarInfo]:
    """The members of one file that is whole: tarfile itself takes a damaged header for the end."""
    try:
        size = file.stat().st_size
        with tarfile.open(file, "r:") as tar, file.open("rb") as raw:
            members = [m for m in tar if not m.isdir()]
            raw.seek(tar.offset)
            while part := raw.read(1 << 20):
                if part.strip(b"\0"):
                    raise UserError(
                        f"{file} is damaged after {len(members)} members, or two tar files lie in it"
                    )
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UserError(f"{file} is not a whole, uncompressed tar file ({one_line(error)})") from error
    if tar.offset + _BLOCK > size:
        raise UserError(f"{file} is cut short: no block of zeros ends it")
    return members


class TarShards(Storage):
    """The members of :class:`Shards` with some suffixes. Nothing stays open, so that processes and threads
    share it safely."""

    def __init__(self, shards: Shards, kind: FileKind = PICTURES) -> None:
        super().__init__(shards.path, list(shards.places), kind)
        self._files = shards.files
        places = [shards.places[self.name(number)] for number in range(len(self))]
        self._places = np.array(places, dtype=np.int64).reshape(-1, 3)

    def read(self, number: int) -> bytes:
        shard, offset, size = (int(n) for n in self._places[number])
        try:
            with self._files[shard].open("rb", buffering=0) as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise UserError(f"{self._files[shard]}: cannot be read ({error.strerror})") from error
        if len(content) != size:
            raise UserError(f"{self._files[shard]} is cut short, within {self.name(number)}")
        return content

    def size(self, number: int) -> int:
        return int(self._places[number, 2])

    def stamp(self, number: int) -> int:
        return self._files[int(self._places[number, 0])].stat().st_mtime_ns

    def read_index(self) -> None:
        return None
