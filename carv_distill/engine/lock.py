"""One process at a time owns a run."""

from __future__ import annotations

import errno
import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carv_distill.errors import UserError

log = logging.getLogger(__name__)

LOCK = "run.lock"
_TAKEN = (errno.EACCES, errno.EAGAIN)


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Owns the run in `folder` while the block lasts.

    A lock of the operating system on an empty file: it is gone when its process is, however that ended, and
    holds between machines that share a disk. It is not inherited by child processes.

    Raises:
        UserError: another process has it.
    """
    try:
        file = (folder / LOCK).open("ab")
    except OSError as error:
        raise UserError(f"{folder / LOCK}: cannot be opened ({error.strerror})") from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                why = "another process trains or exports it; wait for its end, or stop it"
                raise UserError(f"{folder} is in use: {why}") from error
            log.warning("%s: its disk has no locks; take care that no other process works there", folder)
        yield


def is_owned(folder: Path) -> bool:
    """Whether another process owns the run; also where it cannot be told, as a disk has no locks.

    A lock that many may have at once is taken for a moment: it conflicts with the owner's.
    """
    try:
        file = (folder / LOCK).open("rb")
    except OSError:  # none has ever owned it, or what it was owned by is gone
        return False
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
