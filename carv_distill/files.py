"""Writing files so that a reader never sees half of them, and weights so that he knows them again."""

import errno
import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError

from carv_distill.errors import UserError, one_line

WEIGHTS = "*.safetensors"
DIGESTS = "SHA256SUMS"
"""The file beside weights that says what they are, as `sha256sum *.safetensors` writes it."""
_DIGEST_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


@contextmanager
def atomic_file(path: Path | str, replace: bool = True) -> Iterator[BinaryIO]:
    """A binary file that takes the name `path` only once it is complete and on disk.

    The bytes go to a hidden neighbour, which is synchronised and renamed (`os.replace`, atomic within one
    file system). If the body raises, `path` keeps what it held before and the neighbour is removed.

    Raises:
        FileExistsError: without `replace`, there is such a file; of several processes one succeeds.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # open() rather than mkstemp: mkstemp makes the file unreadable to everyone else on a shared disk
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            _take_name(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _take_name(temporary: Path, path: Path) -> None:
    """Gives a file the name `path` if no other has it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # no hard links on this file system: all that is left is to look and then rename
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        temporary.replace(path)


@contextmanager
def updated_folder(folder: Path | str) -> Iterator[Path]:
    """A scratch folder whose files move into `folder` once all are written, each by one rename.

    If the body raises, `folder` keeps what it held before. Files there that have no new version stay. Weights
    get their digests; see :func:`check_digests`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        yield Path(scratch)
        for place in {weights.parent for weights in Path(scratch).rglob(WEIGHTS)}:
            write_digests(place)
        for file in sorted(path for path in Path(scratch).rglob("*") if path.is_file()):
            file.chmod(0o644)  # safetensors makes its files unreadable to others
            target = folder / file.relative_to(scratch)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)


@contextmanager
def saved_folder(folder: Path | str) -> Iterator[Path]:
    """:func:`updated_folder` for what a user wants to keep.

    Raises:
        UserError: a file could not be written; those that were there before are kept.
    """
    try:
        with updated_folder(folder) as scratch:
            yield scratch
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: could not be written ({one_line(error)})") from error


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_file(path) as file:
        file.write(text.encode())


def write_json(path: Path | str, content: dict[str, Any]) -> None:
    """Write `content` as indented JSON, atomically.

    Raises:
        ValueError: a NaN or an infinity, which JSON cannot hold.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_digests(folder: Path) -> None:
    """`SHA256SUMS` beside the weights in a folder; ``sha256sum -c SHA256SUMS`` there checks them too."""
    lines = (f"{_digest(file)}  {file.name}\n" for file in sorted(folder.glob(WEIGHTS)))
    write_text(folder / DIGESTS, "".join(lines))


def check_digests(folder: Path) -> None:
    """That weights are those that were written, where `SHA256SUMS` beside them says so: a flipped bit makes
    other numbers of them, and nothing else would tell. A folder without that file passes.

    Raises:
        UserError: weights that are gone or have another digest, or a file of digests that is none.
    """
    digests = folder / DIGESTS
    if not digests.is_file():
        return
    remedy = f"fetch or make it again, or remove {DIGESTS} where you changed the weights yourself"
    try:
        lines = digests.read_text(encoding="utf-8").splitlines()
        entries = [_DIGEST_LINE.fullmatch(line) for line in lines if line.strip()]
        for entry in entries:
            if entry is None:
                raise UserError(f"{digests} is damaged: not lines of a SHA-256 and a name; {remedy}")
            name = entry[2].removeprefix("./")
            if Path(name).match(WEIGHTS) and _digest(folder / name) != entry[1].lower():
                raise UserError(f"{folder / name} is damaged: its SHA-256 is not that of {DIGESTS}; {remedy}")
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing, though {DIGESTS} lists it; {remedy}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{digests} cannot be checked: {one_line(error)}; {remedy}") from error


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def shipped(name: str) -> Path:
    """`configs` or `checkpoints` as they come with the package: inside it where it was installed, beside it
    in a checkout."""
    package = Path(__file__).parent
    return package / name if (package / name).is_dir() else package.parent / name
