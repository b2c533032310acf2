"""What happens beside the updates: watch for NaN, log, export, show progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from carv_distill.errors import UserError

log = logging.getLogger(__name__)

SILENCE = 120.0
"""Seconds after which a log shows where the run is."""


class DistillModule(Protocol):
    """What the callbacks ask of a module."""

    latest_losses: dict[str, Tensor]

    def metrics(self) -> dict[str, Tensor]:
        """Values for one row of the log."""

    def sample(self, z: Tensor, labels: Tensor) -> Tensor:
        """Images in [−1, 1] from latents and labels."""

    def save(self, folder: Path) -> None:
        """The averaged network as a diffusers folder."""


def write_metrics(trainer: Trainer, values: dict[str, float]) -> None:
    """Adds values to the row of the present step, in every logger."""
    for logger in trainer.loggers:
        logger.log_metrics(values, trainer.global_step)


class StopOnNonFinite(Callback):
    """Stops a run whose losses or weights are no longer finite, before anything of it is kept.

    The first bad step of each network is noted on the device; the host looks at every step on a CPU,
    and on a GPU only at the given periods, where it waits anyway (log, checkpoint, FID).

    Args:
        periods: numbers of steps at whose multiples the host looks.

    Raises:
        UserError: naming step and network.
    """

    def __init__(self, *periods: int) -> None:
        self.periods = [p for p in periods if p]
        self.first_bad: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        step = trainer.global_step
        for name, loss in pl_module.latest_losses.items():
            bad = torch.where(loss.isfinite(), torch.inf, float(step))
            self.first_bad[name] = torch.minimum(self.first_bad.get(name, bad), bad)
        last = step == trainer.max_steps
        if last or pl_module.device.type == "cpu" or any(step % p == 0 for p in self.periods):
            self._look(step, pl_module)

    def _look(self, step: int, module: LightningModule) -> None:
        name, first = min(self.first_bad.items(), key=lambda item: float(item[1]))
        if first.isfinite():
            raise UserError(
                f"non-finite loss of the {name} network at step {int(first)}; the run stops, and what it has "
                "kept is good (lower the learning rate, or clip)"
            )
        weights = torch.nn.utils.get_total_norm([p for p in module.parameters() if p.requires_grad])
        if not weights.isfinite():
            raise UserError(
                f"non-finite weights after step {step}; the run stops, and what it has kept is good "
                "(lower the learning rate, or clip)"
            )


class StepLog(Callback):
    """Logs the module's metrics and the seconds spent, every few steps.

    `seconds` counts from the run's first start, pauses between attempts left out.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.before = 0.0
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of training so far, over all attempts."""
        return self.before + time.perf_counter() - self.start

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step % self.every:
            return
        values = {name: float(value) for name, value in pl_module.metrics().items()}
        write_metrics(trainer, {"seconds": round(self.seconds, 2), **values})
        pl_module.log_dict(values, logger=False)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = state_dict["seconds"]


class Export(Callback):
    """Keeps the folder of what is made up to date: at checkpoints and at the end.

    Args:
        folder: where.
        every: steps.
        save: writes the module's product into a folder.
    """

    def __init__(self, folder: Path, every: int, save: Callable[[Any, Path], None]) -> None:
        self.folder, self.every, self.save = folder, every, save

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            self._save(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._save(pl_module)

    @rank_zero_only
    def _save(self, module: DistillModule) -> None:
        self.save(module, self.folder)


class ProgressLine(Callback):
    """A bar with the updates done, the latest figures and the time left; twenty lines where that is no
    terminal.

    Other callbacks put their figures into `trainer.callback_metrics`; those named in `shown` appear.
    """

    def __init__(self, shown: dict[str, str], every: int) -> None:
        self.shown, self.every = shown, every
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=Console(stderr=True))

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.task = self.progress.add_task(
            "updates", total=trainer.max_steps, completed=trainer.global_step, figures=""
        )
        self.progress.start()
        self.spoken = time.perf_counter()

    @rank_zero_only
    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        figures = [
            template.format(float(trainer.callback_metrics[name]))
            for name, template in self.shown.items()
            if trainer.global_step % self.every == 0 and name in trainer.callback_metrics
        ]
        self.progress.update(self.task, completed=trainer.global_step)
        if figures:
            self.progress.tasks[self.task].fields["figures"] = " · ".join(figures)
        if not self.progress.console.is_terminal:
            self._line(trainer)

    def _line(self, trainer: Trainer) -> None:
        """One line of a log for every twentieth of the updates, and once in two minutes."""
        step, last = trainer.global_step, trainer.max_steps
        if step % max(last // 20, 1) == 0 or time.perf_counter() > self.spoken + SILENCE:
            self.spoken = time.perf_counter()
            task = self.progress.tasks[self.task]
            seconds = task.time_remaining or 0
            left = (
                f"{seconds / 60:.0f} min left" if seconds > 90 else f"{seconds:.0f} s left" if seconds else ""
            )
            parts = (f"update {step} of {last}", task.fields["figures"], left)
            log.info(" · ".join(p for p in parts if p))

    @rank_zero_only
    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.progress.stop()

    @rank_zero_only
    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self.progress.stop()
