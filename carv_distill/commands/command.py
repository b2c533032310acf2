"""What all commands of evaluate.py have in common."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carv_distill.engine.console import is_main_process, quiet_libraries, show_messages
from carv_distill.engine.environment import changed_contents
from carv_distill.engine.folder import newest_run, open_run, trained_by
from carv_distill.engine.task import Task
from carv_distill.errors import UserError
from carv_distill.files import destination, write_json, write_text
from carv_distill.options import one_of, option
from carv_distill.tasks import TASKS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlaceOptions:
    """Where runs are, and what works on them."""

    runs: Path = option(Path("runs"), metavar="FOLDER")
    """where runs are"""
    device: str | None = one_of(("cpu", "cuda"), None)
    """default: cuda where there is one"""


@dataclass(frozen=True)
class CommonOptions(PlaceOptions):
    """What every command that measures is told."""

    out: Path | None = option(None, metavar="FILE.json")
    """default: <command>.json in the run"""


@dataclass(frozen=True)
class RunOptions(CommonOptions):
    """What a command on one run is told."""

    run: Path | None = option(None, metavar="FOLDER")
    """default: the newest under --runs"""


@dataclass(frozen=True)
class Measurement:
    """What a command has measured, or done."""

    shown: list[Any]
    """For the screen."""
    result: dict[str, Any] | None = None
    """For the JSON; None of a command that leaves something else."""
    report: str = ""
    """What is too long for the screen, for a .txt beside the JSON; empty: there is none."""
    draw: Callable[[], list[Path]] | None = None
    """Draws figures, once the JSON is on disk; gives their paths."""
    verdict: str = ""
    """The line that the screen ends with; empty: the places of the results end it."""


@dataclass(frozen=True)
class Command:
    """A command: nothing slow is imported before `measure` is called."""

    name: str
    help: str
    options: type[PlaceOptions]
    measure: Callable[[Any, list[Path], str], Measurement | None]
    """(options, folders of the runs, device) → what to show and keep; None on a process that has nothing to
    say. There is no folder where the command needs no run."""
    needs: str | None = None
    """The capability of a task whose runs it measures, a field of :class:`Task`."""
    interrupted: str = "interrupted; nothing was written"
    """What to say after Ctrl-C."""
    refusal: Callable[[Task, Any, Any], str] = lambda task, config, options: ""
    """Why a run of one of these tasks, of this configuration, cannot be measured as these options ask, and
    what can; empty: it can."""
    place: Callable[[Any], Path | None] = lambda options: None
    """A folder for the results of a measurement without a run; None: the user must name one."""
    example: str | None = None
    """A configuration that ships, of a run that can; None: that of its first task."""
    door: str = "python evaluate.py"
    """What is typed before its name."""
    shared: bool = False
    """The processes of torchrun share its work; else the first one does all of it."""

    @property
    def tasks(self) -> list[Task]:
        """Those whose runs it measures."""
        return [task for task in TASKS.values() if self.needs and getattr(task, self.needs)]

    def newest(self, options: PlaceOptions) -> Path:
        """The newest run that it measures; UserError without any."""

        def refusal(run: Path) -> str:
            return self.refusal(*open_run(TASKS, run), options)

        return newest_run(options.runs, self.tasks, self.example or self.tasks[0].example, refusal)

    def open(self, run: Path, options: Any) -> tuple[Task, Any]:
        """A run's task and configuration, for what these options ask.

        Raises:
            UserError: it is of a task that the command does not measure, or it is refused.
        """
        task, config = open_run(TASKS, run)
        if task not in self.tasks:
            names = " and ".join(t.name for t in self.tasks)
            raise UserError(f"{run}: {self.name} is for runs of task {names}, this run's is {task.name}")
        if reason := self.refusal(task, config, options):
            raise UserError(f"{run}: {reason}")
        return task, config


def measure(
    command: Command, options: PlaceOptions, renew_page: Callable[[Path], Path | None] = lambda folder: None
) -> None:
    """Measures what is asked for: JSON in the run's folder, figures, then tables on the screen.

    Every place for results is looked at before the work, and what was measured is on disk before it is shown.

    Args:
        renew_page: makes the page of a folder that has a new result in its own place; gives where it is.

    Raises:
        UserError: no run, no place for the results, or no such device.
    """
    show_messages()
    if not command.shared and "TORCHELASTIC_RUN_ID" in os.environ and not is_main_process():
        return  # what several would make is the same, and they would write over each other's results
    runs = _runs(command, options)
    out = _destination(command, options, runs)
    changed = []
    for run in runs:
        _, config = command.open(run, options)  # says so where it is not a run's folder
        changed += [(key, run) for key in changed_contents(run, config)]
    trained = {"run": str(runs[0]), "trained": trained_by(runs[0])} if runs else {}

    with ExitStack() as places:
        for place in dict.fromkeys((out, getattr(options, "out", None))):
            if place is not None:
                places.enter_context(destination(place, "--out"))
        if out is not None and out.suffix != ".json":  # tables and figures lie beside it by its name without
            raise UserError(f"--out: {out} must end in .json, as {out}.json")
        for key, run in changed:
            log.warning("%s has other content than the one that %s was started with", key, run)
        log.info("%s: loading torch …", " ".join([command.name, *(f"of {run}" for run in runs[:1])]))
        device = chosen_device(options)  # after all that can be wrong before it
        quiet_libraries()
        measurement = command.measure(options, runs, device)
    if measurement is None:
        return
    try:
        if out is not None and measurement.result is not None:
            write_json(out, {"command": sys.argv, **measurement.result, **trained})
            measurement.shown.append(f"written to {out}")
            if measurement.report:
                write_text(out.with_suffix(".txt"), measurement.report)
                measurement.shown.append(f"all tables: {out.with_suffix('.txt')}")
            if measurement.draw is not None:
                measurement.shown.extend(f"drawn: {path}" for path in measurement.draw())
            if getattr(options, "out", None) is None and (page := renew_page(out.parent)):
                measurement.shown.append(f"a page to open: {page}")
    finally:  # a disk that has become full does not take the numbers along
        last = [measurement.verdict] if measurement.verdict else []
        print(*measurement.shown, *last, sep="\n", flush=True)


def chosen_device(options: PlaceOptions) -> str:
    """cuda or cpu; UserError for a GPU that is not there."""
    import torch  # slow

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: cuda, but there is no CUDA device here (allowed: cpu)")
    return device


def _destination(command: Command, options: PlaceOptions, runs: list[Path]) -> Path | None:
    """The JSON to be; None of a command that leaves none."""
    if not isinstance(options, CommonOptions):
        return None
    place = runs[0] if len(runs) == 1 else None if runs else command.place(options)
    if options.out is None and place is None:
        what = "several runs need a file of their own" if runs else "without a run results need a place"
        raise UserError(f"--out: {what}, as --out scores.json")
    out = options.out or Path(place or "", f"{command.name}.json")
    return out.with_suffix(".json") if out.suffix == ".npz" else out  # the command itself writes that one


def _runs(command: Command, options: PlaceOptions) -> list[Path]:
    named = getattr(options, "run", None)
    if named is not None:
        return list(named) if isinstance(named, tuple) else [named]
    if not command.tasks or getattr(options, "teacher", None) is not None:
        return []
    return [command.newest(options)]
