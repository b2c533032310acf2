"""SHA-256 of weights, written beside them and checked where they are read, and of whole folders."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

from carv_distill.errors import UserError, one_line
from carv_distill.walk import walk

WEIGHTS = "*.safetensors"
DIGESTS = "SHA256SUMS"
"""The file beside weights that says what they are, as `sha256sum *.safetensors` writes it."""
_LINKED: dict[tuple[int, ...], str] = {}
"""Digests of linked weights that this process has read, by device, inode, bytes and time."""
_DIGEST_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


def digest_lines(folder: Path) -> str:
    """`SHA256SUMS` beside the weights in a folder; ``sha256sum -c SHA256SUMS`` there checks it too."""
    return "".join(f"{_of_weights(file)}  {file.name}\n" for file in sorted(folder.glob(WEIGHTS)))


def _of_weights(file: Path) -> str:
    """Of a link to a file that others have too, as a teacher's text models are in every product of a run:
    read once, however often the product is written."""
    about = file.stat()
    if about.st_nlink == 1:
        return file_digest(file)
    key = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
    if key not in _LINKED:
        _LINKED[key] = file_digest(file)
    return _LINKED[key]


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
            if Path(name).match(WEIGHTS) and file_digest(folder / name) != entry[1].lower():
                raise UserError(f"{folder / name} is damaged: its SHA-256 is not that of {DIGESTS}; {remedy}")
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing, though {DIGESTS} lists it; {remedy}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{digests} cannot be checked: {one_line(error)}; {remedy}") from error


def file_digest(file: Path) -> str:
    """SHA-256, as 64 hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def content_digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files with their names, those of linked folders too, but for hidden
    ones, pages and digests."""
    files = [path]
    if path.is_dir():
        files = sorted(place / name for place, _, names in walk(path) for name in names)
        files = [file for file in files if file.is_file()]
    files = [f for f in files if f.suffix != ".md" and f.name != DIGESTS]
    files = [f for f in files if not any(part.startswith(".") for part in f.relative_to(path).parts)]
    return _digest(path, tuple((f, f.stat().st_size, f.stat().st_mtime_ns) for f in files))


@cache
def _digest(path: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    """Of files as they are at present: a large teacher is read once."""
    lines = (f"{file.relative_to(path)}\0{file_digest(file)}\n" for file, *_ in files)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
