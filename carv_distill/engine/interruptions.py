"""What ends a run early: a scheduler's signal, and processes that are not the same program or are gone."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

import carv_distill
from carv_distill.errors import INTERRUPTED, PREEMPTED, StoppedError, UserError

from .callbacks import StopOnNonFinite
from .checkpoints import Checkpoints
from .folder import checkpoints_in
from .lightning_private import leave_signals_alone

log = logging.getLogger(__name__)

SCHEDULERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""What schedulers send ahead of the end (SLURM's `--signal` lets one choose), and a terminal that closes."""
SIGNALS = (*SCHEDULERS, signal.SIGINT)
"""And Ctrl-C."""
BEAT = 2.0
"""Seconds between two signs of life."""
GRACE = 5.0
"""Seconds that a process has to stop by itself before it is stopped."""
LOST = 3
"""Exit status of a process that was stopped."""


@contextmanager
def stop_at_once(kept: str) -> Iterator[None]:
    """A block outside of the updates, as long as it may take, that a scheduler's signal ends at once: files
    are written whole or not at all.

    Args:
        kept: what the message says of the work so far.

    Raises:
        StoppedError: one of `SIGNALS` came, but for Ctrl-C, which is Python's own.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        raise StoppedError(f"{name} received outside of the updates; {kept}", PREEMPTED, together=False)

    with _handled(SCHEDULERS, stop):
        yield


Handler = Callable[[int, FrameType | None], None]


@contextmanager
def _handled(signals: Sequence[signal.Signals], handler: Handler) -> Iterator[None]:
    """A block with a handler of signals, where this is the thread that has them."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        # what is ignored from the start stays so: SIGHUP under nohup, SIGINT in a script's background
        heard = [s for s in signals if signal.getsignal(s) != signal.SIG_IGN]
        before = {s: signal.signal(s, handler) for s in heard}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


class Watchdog(Callback):
    """Watches the other processes of a run.

    At the start all of them compare their `program`, by key. Then a thread of each exchanges signs of life,
    beside whatever the training waits for: where one process dies, or gives no sign for `patience` seconds,
    the others stop and say so. Files are written atomically, so what the run has kept stays good.
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
        self._thread = threading.Thread(target=self._watch, args=(group,), daemon=True, name="watchdog")
        self._thread.start()

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._end(together=True, seconds=self.patience)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        # An exchange that failed is a RuntimeError: is a process lost? is asked before the thread ends.
        if not isinstance(exception, RuntimeError):
            together = isinstance(exception, StoppedError) and exception.together
            self._end(together=together, seconds=2 * BEAT + GRACE)

    def _end(self, together: bool, seconds: float) -> None:
        """Ends the thread: a process that exits while one of its threads waits in C++ is aborted. `together`:
        all processes leave now, and none is to think another lost."""
        self._together = together
        self._stop.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def is_lost(self) -> bool:
        """Whether another process is gone, after an exchange failed by a RuntimeError; ends the thread."""
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


class Interruption(Callback):
    """After one of `SIGNALS` to any process, all finish the same update, keep a checkpoint and stop.

    Whether any process got one is answered by a reduction on the CPU that runs beside the next update: the
    device is not waited for, and every process reads the same answer at the same update. A second Ctrl-C
    leaves at once, and so does any signal after the last update, while what comes after it is made.

    Args:
        healthy: looks at losses and weights before they are kept, which on a GPU it does not at every update.
    """

    def __init__(self, checkpoints: Checkpoints, healthy: StopOnNonFinite) -> None:
        self.checkpoints, self.healthy = checkpoints, healthy
        self.received: signal.Signals | None = None
        """The first one."""
        self._interrupted = False
        self._finished = False
        self._step = 0
        self._group: Any = None
        self._exchange: tuple[Tensor, Any] | None = None

    @contextmanager
    def listening(self, trainer: Trainer) -> Iterator[None]:
        """Takes note of the signals, from before the first measurement on."""
        leave_signals_alone(trainer)
        with _handled(SIGNALS, self._on_signal):
            yield

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._step = trainer.global_step
        if trainer.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self._step = step = trainer.global_step
        status = self._status_of_all()
        self._finished = step >= trainer.max_steps
        if status:
            self.healthy.act(trainer, pl_module)
            self.checkpoints.keep_newest(trainer)
            name = "another process was told to stop"
            if self.received is not None:
                name = "interrupted" if self.received == signal.SIGINT else f"{self.received.name} received"
            raise StoppedError(f"{name}; update {step} is kept, --resume goes on from it", status)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self._exchange is not None:
            self._exchange[1].wait()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._finished:  # no update follows at whose end it would be seen
            by_hand = number == signal.SIGINT
            name = "interrupted" if by_hand else f"{signal.Signals(number).name} received"
            what = f"{name} after the last update, which is kept; --resume makes what comes after it"
            raise StoppedError(what, INTERRUPTED if by_hand else PREEMPTED, together=False)
        if number == signal.SIGINT and self._interrupted:
            kept = max(checkpoints_in(self.checkpoints.folder), key=lambda of: (of[1], of[0]), default=None)
            rest = f"{kept[0].name} is kept, --resume goes on from it" if kept else "nothing is kept"
            raise StoppedError(f"interrupted after update {self._step}; {rest}", INTERRUPTED, together=False)
        if self.received is None:  # a scheduler's word stays, whatever comes after it
            self.received = signal.Signals(number)
        if number == signal.SIGINT:
            self._interrupted = True
            log.warning("interrupted: this update is finished and kept; a second Ctrl-C leaves at once")

    def _status_of_all(self) -> int:
        """The exit status that the signals ask for that any process had when the update before this one
        ended; 0 without any."""
        mine = 0
        if self.received is not None:
            mine = INTERRUPTED if self.received == signal.SIGINT else PREEMPTED
        if self._group is None:
            return mine
        if self._exchange is not None:
            answer, work = self._exchange
            work.wait()
            if status := int(answer.item()):
                return status
        answer = torch.tensor([mine], dtype=torch.int32)
        highest = torch.distributed.ReduceOp.MAX
        work = torch.distributed.all_reduce(answer, highest, group=self._group, async_op=True)
        self._exchange = answer, work
        return 0


def lost_message(patience: float) -> str:
    """What the processes that are left say."""
    return (
        f"another process of this run died or gave no sign of life for {patience:.0f} s; this one stops. "
        "What the run has kept is good: --resume goes on from it"
    )


def check_equal(programs: list[dict[str, Any]]) -> None:
    """UserError unless all processes are about to do the same."""
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
