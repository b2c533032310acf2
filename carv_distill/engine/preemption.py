"""Leaving in good order when a scheduler says so: a checkpoint, and a status that asks for another start."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from carv_distill.errors import PreemptedError

from .checkpoints import Checkpoints

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send ahead of the end; SLURM's `--signal` lets one choose."""


class Preemption(Callback):
    """After SIGTERM or SIGUSR1 to any process, all finish the same update, keep a checkpoint and stop.

    Whether somebody was told is asked by a reduction on the CPU that runs beside the next update: the device
    is not waited for, and every process reads the same answer at the same update.

    Args:
        checkpoints: writes the checkpoint.

    Raises:
        PreemptedError: once the checkpoint is on disk.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.told: str | None = None
        self._group: Any = None
        self._asked: tuple[Tensor, Any] | None = None

    @contextmanager
    def listening(self, trainer: Trainer) -> Iterator[None]:
        """Takes note of the signals, from before the first measurement on.

        Lightning's own handlers are kept out: they exchange tensors from inside a signal, and end a run as if
        it were done, with no checkpoint.
        """
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        before = {}
        if threading.current_thread() is threading.main_thread():
            before = {s: signal.signal(s, self._on_signal) for s in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        step = trainer.global_step
        if self._all_leave() and step < trainer.max_steps:
            self.checkpoints.keep_newest(trainer)
            told = f"{self.told} received" if self.told else "another process was told to stop"
            raise PreemptedError(f"{told}; update {step} is kept")

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self._asked is not None:
            self._asked[1].wait()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.told = signal.Signals(number).name

    def _all_leave(self) -> bool:
        """Whether any process had been told when the update before this one ended."""
        if self._group is None:
            return self.told is not None
        if self._asked is not None:
            answer, work = self._asked
            work.wait()
            if answer.item():
                return True
        answer = torch.tensor([self.told is not None], dtype=torch.int32)
        self._asked = answer, torch.distributed.all_reduce(answer, group=self._group, async_op=True)
        return False
