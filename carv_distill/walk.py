"""Folders with all that is below them, through links."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from carv_distill.errors import UserError


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As :func:`os.walk`, from the top, into linked folders too: sets and models are often put together by
    links. A link to a folder that it lies in is passed over.

    Raises:
        UserError: a folder that cannot be entered, which os.walk leaves out in silence.
    """
    for name, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        place = Path(name)
        linked = [sub for sub in folders if os.path.islink(place / sub)]
        if linked:
            way = [path.resolve() for path in (place, *place.parents) if path.is_relative_to(folder)]
            above = {each for path in way for each in (path, *path.parents)}
            folders[:] = [s for s in folders if s not in linked or (place / s).resolve() not in above]
        yield place, folders, files


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename}: the folder cannot be entered ({error.strerror})") from error
