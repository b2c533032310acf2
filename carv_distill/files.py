"""Writing files so that a reader never sees half of them, and weights so that he knows them again."""

import errno
import json
import math
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError

from carv_distill.digests import DIGESTS, WEIGHTS, digest_lines
from carv_distill.errors import UserError, one_line


@contextmanager
def atomic_file(path: Path | str, replace: bool = True) -> Iterator[BinaryIO]:
    """A binary file that takes the name `path` only once it is complete and on disk.

    The bytes go to a hidden neighbour, which is synchronised and renamed (`os.replace`, atomic within one
    file system). If the body raises, `path` keeps what it held before and the neighbour is removed.

    Raises:
        FileExistsError: without `replace`, there is such a file; of several processes one succeeds.
        UserError: there is a folder, a device or another thing of that name that is no file.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    require_replaceable(path)
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


def require_replaceable(path: Path) -> None:
    """UserError where something that is no regular file has this name."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is a device or a pipe, which is not replaced; name a file")


@contextmanager
def destination(path: Path, key: str) -> Iterator[None]:
    """Makes the folder of a file to be, and sees that it can be written there, before the body writes it.
    If the body ends by a UserError, folders that were made for it and hold nothing are removed.

    Raises:
        UserError: naming the `key` that the path was given by.
    """
    parent = Path(os.path.realpath(path)).parent
    made = [folder for folder in (parent, *parent.parents) if not os.path.exists(folder)]
    try:
        _require_writable(path, key)
        yield
    except UserError:
        for folder in made:
            with suppress(OSError):  # it was not made, or holds something by now
                folder.rmdir()
        raise


def _require_writable(path: Path, key: str) -> None:
    try:
        target = Path(os.path.realpath(path))
        require_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{key}: {path} cannot be written ({reason})") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: the file is missing, cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_bytes().decode())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object")
    return content


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
    get their digests; see :mod:`carv_distill.digests`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-", suffix=".tmp") as scratch:
        yield Path(scratch)
        for place in {weights.parent for weights in Path(scratch).rglob(WEIGHTS)}:
            write_text(place / DIGESTS, digest_lines(place))
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
        file.write(text.encode(errors="backslashreplace"))


def write_json(path: Path | str, content: dict[str, Any]) -> None:
    """Write `content` as indented JSON, atomically; a NaN or an infinity, which JSON cannot hold, as null."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cache_folder(name: str) -> Path:
    """Where what is costly to make is kept by default, by its kind: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "carv-distill" / name


def shipped(name: str) -> Path:
    """`configs` or `checkpoints` as they come with the package: inside it where it was installed, beside it
    in a checkout."""
    package = Path(__file__).parent
    return package / name if (package / name).is_dir() else package.parent / name
