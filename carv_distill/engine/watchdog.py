"""The processes of one run: they must be the same program, and none may be waited for once it is gone."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from datetime import timedelta
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

import carv_distill
from carv_distill.errors import PreemptedError, UserError

log = logging.getLogger(__name__)

BEAT = 2.0
"""Seconds between two signs of life."""
GRACE = 5.0
"""Seconds that a process has to stop by itself before it is stopped."""
LOST = 3
"""Exit status of a process that was stopped."""


class Peers(Callback):
    """Watches the other processes of a run.

    At the start all of them compare what they are about to do. Then a thread of each exchanges signs of life,
    beside whatever the training waits for: where one process dies, or gives no sign for `patience` seconds,
    the others stop and say so. Files are written atomically, so what the run has kept stays good.

    Args:
        program: what must be equal on all processes, by key.
        patience: seconds.

    Raises:
        UserError: naming the process that differs from the first one, and the key.
    """

    def __init__(self, program: dict[str, Any], patience: float) -> None:
        self.program, self.patience = program, patience
        self.lost = threading.Event()
        self._stop = threading.Event()
        self._together = False
        self._thread: threading.Thread | None = None

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if trainer.world_size == 1:
            return
        wait = timedelta(seconds=self.patience)
        group: Any = torch.distributed.new_group(backend="gloo", timeout=wait)
        programs: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(programs, self.program, group=group)
        check_equal(programs)
        self._thread = threading.Thread(target=self._watch, args=(group,), daemon=True, name="peers")
        self._thread.start()

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._end(together=True, seconds=self.patience)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        # An exchange that failed is a RuntimeError: whether a peer is lost is asked before the thread ends.
        if not isinstance(exception, RuntimeError):
            self._end(together=isinstance(exception, PreemptedError), seconds=2 * BEAT + GRACE)

    def _end(self, together: bool, seconds: float) -> None:
        """Ends the thread: a process that exits while one of its threads waits in C++ is aborted.

        Args:
            together: all processes leave now, and none is to think another lost.
        """
        self._together = together
        self._stop.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def is_lost(self) -> bool:
        """Whether a peer is gone, asked after a RuntimeError, as an exchange that fails raises; ends the
        thread."""
        lost = self._thread is not None and self.lost.wait(2 * BEAT + GRACE)
        self._end(together=False, seconds=2 * BEAT + GRACE)
        return lost

    def _watch(self, group: Any) -> None:
        working = torch.ones(1, dtype=torch.int32)
        while working.item():
            stopped = self._stop.wait(BEAT)
            if stopped and not self._together:
                return
            working.fill_(0 if stopped else 1)
            try:
                torch.distributed.all_reduce(working, group=group)
            except RuntimeError:
                self.lost.set()
                # The training usually notices too, and leaves with its own word; if it hangs, it is stopped.
                if not self._stop.wait(GRACE):
                    log.error("%s", lost_message(self.patience))
                    os._exit(LOST)
                return


def lost_message(patience: float) -> str:
    """What the processes that are left say."""
    return (
        f"another process of this run died or gave no sign of life for {patience:.0f} s; this one stops. "
        "What the run has kept is good: --resume goes on from it"
    )


def check_equal(programs: list[dict[str, Any]]) -> None:
    """All processes must be about to do the same.

    Raises:
        UserError: naming the first process that differs from process 0, and the first key.
    """
    first = programs[0]
    for rank, program in enumerate(programs):
        for key in sorted(first | program):
            if first.get(key) != program.get(key):
                raise UserError(
                    f"{key}: process {rank} has {program.get(key)!r}, process 0 has {first.get(key)!r}; all "
                    "processes of a run need the same code, configuration and checkpoints"
                )


@cache
def code_digest() -> str:
    """Of this package's source and the libraries that compute."""
    root = Path(carv_distill.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    libraries = " ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "diffusers"))
    return f"{digest.hexdigest()[:12]} with {libraries}"
