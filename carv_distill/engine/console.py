"""What reaches the terminal."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import TextIO

from rich.console import Console
from rich.logging import RichHandler

from carv_distill.screen import printable


def is_main_process() -> bool:
    """Whether this is rank 0, by the launcher's environment; known before any process group is."""
    if rank := os.environ.get("RANK"):
        return int(rank) == 0
    # without a launcher Lightning has a node's number, and processes by their number on it
    if int(os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or 0):
        return False
    ranks = (os.environ.get(name) for name in ("LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"))
    return int(next(filter(None, ranks), 0)) == 0


class Harmless(logging.Formatter):
    """Messages without what a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class ToStandardError(logging.StreamHandler[TextIO]):
    """Where standard error goes at the time of the message, not where it went at the first one."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def show_messages() -> None:
    """Our own messages from rank 0, on standard error; in a file each is one line, whatever its length."""
    ours = logging.getLogger("carv_distill")
    ours.setLevel(logging.INFO if is_main_process() else logging.WARNING)
    if ours.handlers:
        return
    console = Console(stderr=True)
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, show_time=False)
        handler.setFormatter(Harmless())
    else:
        handler = ToStandardError()
        handler.setFormatter(Harmless("%(levelname)-8s %(message)s"))
    ours.addHandler(handler)


def quiet_libraries() -> None:
    """Our own messages; of the libraries only warnings that a user can act on."""
    show_messages()
    for name in ("lightning.pytorch", "lightning.fabric", "lightning", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import transformers  # slow

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    for message in (
        ".*does not have many workers.*",
        ".*isinstance.treespec.*",
        ".*in eval mode at the start of training.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*IterableDataset.*",
        ".*`max_length` is ignored.*",
        ".*ModelCheckpoint with manual optimization.*",
    ):
        warnings.filterwarnings("ignore", message=message)
