"""What happens beside the updates: watch for NaN, log, draw, export, show progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text
from torch import Tensor

from carv_distill.errors import UserError
from carv_distill.evaluation.grids import save_grid
from carv_distill.progress import moves
from carv_distill.screen import duration

from .estimator import RunModule
from .loggers.face import RunLogger
from .sharding import total_norm

log = logging.getLogger(__name__)

SILENCE = 120.0
"""Seconds after which a log shows where the run is."""


def write_metrics(trainer: Trainer, values: dict[str, float]) -> None:
    """Adds values to the row of the present step, in every logger; a new row begins with its `seconds`."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    beginning = next((each.begin_row() for each in callbacks if isinstance(each, StepLog)), {})
    for logger in trainer.loggers:
        logger.log_metrics(beginning | values, trainer.global_step)


def write_picture(trainer: Trainer, path: Path) -> None:
    """Shows a PNG of a series, which has its folder's name, in every logger that shows pictures."""
    for logger in trainer.loggers:
        if isinstance(logger, RunLogger):
            logger.log_picture(path.parent.name, path, trainer.global_step)


class Periodic(Callback):
    """Acts after every so many updates.

    Args:
        periods: numbers of updates at whose multiples it acts; 0 is none, and without any it never acts.
        last: whether it acts after the last update too.
    """

    def __init__(self, *periods: int, last: bool = False) -> None:
        self.periods, self.last = [p for p in periods if p], last

    def is_due(self, trainer: Trainer) -> bool:
        """Whether it acts after the present update."""
        step, at_end = trainer.global_step, bool(self.periods) and trainer.global_step == trainer.max_steps
        return any(step % p == 0 for p in self.periods) or (self.last and at_end)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if self.is_due(trainer):
            self.act(trainer, pl_module)

    def act(self, trainer: Trainer, module: Any) -> None:
        """What is done."""
        raise NotImplementedError


class StopOnNonFinite(Periodic):
    """Stops a run whose losses or weights are no longer finite, or whose module says so, before anything of
    it is kept.

    The first bad step of each network is noted on the device; the host looks at every step on a CPU,
    and on a GPU only at the given periods, where it waits anyway (log, checkpoint, FID).
    """

    def __init__(self, *periods: int) -> None:
        super().__init__(*periods, last=True)
        self.first_bad: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        for name, loss in pl_module.latest_losses.items():
            bad = torch.where(loss.isfinite(), torch.inf, float(trainer.global_step))
            self.first_bad[name] = torch.minimum(self.first_bad.get(name, bad), bad)
        if pl_module.device.type == "cpu" or self.is_due(trainer):
            self.act(trainer, pl_module)

    def act(self, trainer: Trainer, module: RunModule) -> None:
        module.check()
        name, first = min(self.first_bad.items(), key=lambda item: float(item[1]))
        weights = total_norm(p for p in module.parameters() if p.requires_grad)
        if first.isfinite():
            fault = f"non-finite loss of the {name} network at step {int(first)}"
        elif not weights.isfinite():
            fault = f"non-finite weights after step {trainer.global_step}"
        else:
            return
        raise UserError(
            f"{fault}; the run stops, and what it has kept is good (lower the learning rate, or clip)"
        )


class StepLog(Periodic):
    """Logs the module's metrics every few steps and after the last; every row has the seconds spent, whoever
    writes it.

    `seconds` counts from the run's first start to the end of the update, pauses between attempts left out.
    """

    def __init__(self, every: int) -> None:
        super().__init__(every, last=True)
        self.before = 0.0
        self.start = time.perf_counter()
        self._beginning: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        """Seconds of training so far, over all attempts."""
        return self.before + time.perf_counter() - self.start

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.start = time.perf_counter()
        self._look_at_clock()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self._look_at_clock()
        super().on_train_batch_end(trainer, pl_module)

    def _look_at_clock(self) -> None:
        self._beginning = {"seconds": round(self.seconds, 2)}

    def begin_row(self) -> dict[str, float]:
        """What the row of the present step begins with; nothing once it has begun."""
        beginning, self._beginning = self._beginning, {}
        return beginning

    def act(self, trainer: Trainer, module: Any) -> None:
        values = {name: float(value) for name, value in module.metrics().items()}
        write_metrics(trainer, values)
        module.log_dict(values, logger=False)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = state_dict["seconds"]


class PictureGrid(Periodic):
    """Pictures of what is trained, every few steps.

    Args:
        folder: of the files, named by the step.
        every: steps.
        draw: module → [n, 3, S, S] in [−1, 1].
        columns: pictures per row.
        scale: pixels along the side of one.
        last: whether the last step has its pictures too.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        draw: Callable[[Any], Tensor],
        columns: int,
        scale: int = 1,
        last: bool = False,
    ) -> None:
        super().__init__(every, last=last)
        self.folder, self.draw, self.columns, self.scale = folder, draw, columns, scale

    @rank_zero_only
    def act(self, trainer: Trainer, module: Any) -> None:
        path = self.folder / f"{trainer.global_step:06d}.png"
        save_grid(self.draw(module), path, self.columns, self.scale)
        write_picture(trainer, path)


class Export(Periodic):
    """Keeps the folder of what is made up to date: at checkpoints and at the end.

    Args:
        export: writes the module's product, given the step and whether the run is finished.
        gather: called by all processes before it.
    """

    def __init__(
        self,
        every: int,
        export: Callable[[Any, int, bool], None],
        gather: Callable[[Any], None] = lambda module: None,
    ) -> None:
        super().__init__(every)
        self.export, self.gather = export, gather

    def act(self, trainer: Trainer, module: Any) -> None:
        if trainer.global_step < trainer.max_steps:
            self._export(trainer, module, False)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._export(trainer, pl_module, True)

    def _export(self, trainer: Trainer, module: Any, finished: bool) -> None:
        self.gather(module)
        if trainer.is_global_zero:
            self.export(module, trainer.global_step, finished)


class TimeLeft(ProgressColumn):
    """The time left at the mean pace of all updates since the start, with what was measured between them."""

    def render(self, task: Task) -> Text:
        left = seconds_left(task)
        return Text("" if left is None else duration(left), style="progress.remaining")


def seconds_left(task: Task) -> float | None:
    """Seconds so far / updates so far × updates left; None before the first update."""
    done = task.completed - task.fields["first"]
    if task.elapsed is None or task.total is None or done <= 0:
        return None
    return task.elapsed / done * (task.total - task.completed)


class ProgressLine(Periodic):
    """A bar with the updates done, the latest figures and the time left; twenty lines where that is no
    terminal. (Lightning's bars count the batches of an epoch, of which ours have no end, and say nothing in
    a redirected log.)

    Args:
        shown: names in `trainer.callback_metrics`, with their format.
        periods: numbers of updates at whose multiples it looks at them: those of the log, and of all that
            measures.
    """

    def __init__(self, shown: dict[str, str], *periods: int) -> None:
        super().__init__(*periods)
        self.shown = shown
        self.seen: dict[str, tuple[float, int]] = {}
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeLeft(),
        )
        console = Console(stderr=True)
        self.moves = moves(console)
        self.progress = Progress(*columns, console=console, disable=not self.moves)

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.task = self.progress.add_task(
            "updates",
            total=trainer.max_steps,
            completed=trainer.global_step,
            figures="",
            first=trainer.global_step,
        )
        self.progress.start()
        self.latest_line = time.perf_counter()

    @rank_zero_only
    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        step, last = trainer.global_step, trainer.max_steps
        metrics = trainer.callback_metrics if self.is_due(trainer) else {}
        figures = [self._figure(name, float(metrics[name]), step) for name in self.shown if name in metrics]
        self.progress.update(self.task, completed=step)
        task = self.progress.tasks[self.task]
        if figures:
            task.fields["figures"] = " · ".join(figures)
        silent = time.perf_counter() > self.latest_line + SILENCE
        if not self.moves and (step % max(last // 20, 1) == 0 or silent):
            self.latest_line = time.perf_counter()
            left = f"{duration(seconds)} left" if (seconds := seconds_left(task)) else ""
            parts = (f"update {step} of {last}", task.fields["figures"], left)
            log.info(" · ".join(p for p in parts if p))

    def _figure(self, name: str, value: float, step: int) -> str:
        """With the update at which it was first seen so, unless that is this one."""
        if self.seen.get(name, (None, 0))[0] != value:
            self.seen[name] = (value, step)
        since = self.seen[name][1]
        return self.shown[name].format(value) + ("" if since == step else f" at update {since}")

    @rank_zero_only
    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.progress.stop()

    @rank_zero_only
    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self.progress.stop()
