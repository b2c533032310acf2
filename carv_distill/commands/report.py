"""evaluate.py report: the page of a run, or of several side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carv_distill.engine.folder import CONFIG, checkpoints_in, open_run
from carv_distill.engine.lock import is_owned
from carv_distill.engine.task import PageWords, Task
from carv_distill.errors import UserError
from carv_distill.options import option
from carv_distill.report import NAME
from carv_distill.tasks import TASKS

from .command import Command, Measurement, PlaceOptions
from .influence import WITHOUT_RUN
from .next_steps import next_steps


@dataclass(frozen=True)
class ReportOptions(PlaceOptions):
    """What `evaluate.py report` is told."""

    run: tuple[Path, ...] | None = option(None, metavar="FOLDER")
    """one or several; default: the newest under --runs"""
    out: Path | None = option(None, metavar="FILE.html")
    """default: report.html in the run; of several runs it must be given"""


def _write(options: ReportOptions, runs: list[Path], device: str) -> Measurement | None:
    from carv_distill.engine.console import is_main_process
    from carv_distill.report.write import write_report

    if not is_main_process():
        return None
    if len(runs) > 1 and options.out is None:
        raise UserError("--out: several runs need a file of their own, as --out report.html")
    place = options.out or runs[0] / NAME
    opened = [REPORT.open(run, options) for run in runs]
    steps = _steps(*opened[0], runs[0]) if len(runs) == 1 else {}
    words = {task.words for task, _ in opened}
    write_report(runs, place, steps, words.pop() if len(words) == 1 else PageWords())
    return Measurement([f"written to {place}; open it in a browser"])


def _steps(task: Task, config: Any, run: Path) -> dict[str, str] | None:
    """What a run goes on with; None while another process trains it."""
    updates = max((step for _, step in checkpoints_in(run / "checkpoints")), default=0)
    trains = updates < config.trainer.max_steps and is_owned(run)
    return None if trains else next_steps(task, config, run)


def renew_page(folder: Path) -> Path | None:
    """The page of a run after another measurement, or of results without a run in a folder of their own; its
    place. None elsewhere: a report.html there may be somebody's."""
    from carv_distill.report.write import keep_report, keep_results

    if (folder / CONFIG).is_file():
        task, config = open_run(TASKS, folder)
        return keep_report(folder, _steps(task, config, folder), task.words)
    return keep_results(folder) if folder.name.startswith(WITHOUT_RUN) else None


REPORT = Command(
    "report",
    "a page to open: samples, curves, variance, influence, settings",
    ReportOptions,
    _write,
    "prepare",
)
