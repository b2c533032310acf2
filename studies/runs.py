"""Many training runs side by side, each as a user would start it."""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import pandas as pd

from carv_distill.engine.lock import owned
from carv_distill.engine.metrics import read_metrics
from carv_distill.errors import UserError
from studies.finished import FINISHED, difference, finish, made_of
from studies.side_by_side import side_by_side

NON_FINITE = "non-finite"
"""In the line with which a run ends whose loss or weights are NaN."""


@dataclass(frozen=True)
class TrainingRun:
    """One training: its name, and what it overrides of the configuration."""

    name: str
    words: tuple[str, ...]

    def metrics(self, folder: Path) -> pd.DataFrame:
        """Its metrics.csv."""
        return pd.DataFrame(read_metrics(folder / self.name / "metrics.csv"))

    def fid(self, folder: Path) -> float:
        """Mean FID of its student over the evaluated ranges of seeds; infinite of a run that ended in NaN."""
        if self.diverged(folder):
            return math.inf
        reports = json.loads((folder / self.name / "fid.json").read_text())
        return float(reports["student, 1 step"]["summary"]["fid"]["mean"])

    def diverged(self, folder: Path) -> bool:
        """Whether it ended in NaN, and was allowed to."""
        finished = folder / self.name / FINISHED
        return finished.is_file() and "diverged" in json.loads(finished.read_text())


def levels(report: Path) -> dict[str, float]:
    """What a FID lies between, by a report of evaluate.py, as far as that was measured: those of the teacher
    and of the floor."""
    reports = json.loads(report.read_text())
    found = {
        name: float(report["summary"]["fid"]["mean"])
        for name, report in reports.items()
        if name.startswith("teacher")
    }
    floor = reports.get("floor") or {}
    if "splits" in floor:
        found["floor"] = statistics.fmean(split["fid"] for split in floor["splits"])
    elif "held_out" in floor:
        found["floor, real pictures to test by"] = float(floor["held_out"]["fid"])
    return found


def plain_name(words: str) -> str:
    """A name for a folder."""
    return "".join(c if c.isalnum() else "-" for c in words).strip("-")


def train_all(
    runs: Sequence[TrainingRun],
    config: Path,
    folder: Path,
    workers: int,
    ranges: int = 0,
    teacher: bool = False,
    may_diverge: bool = False,
) -> None:
    """Trains and evaluates every run, `workers` at a time with one thread each; finished ones stay.

    A run that was cut short goes on from its checkpoint. Each leaves `<folder>/<name>/` as train.py makes it.

    Args:
        ranges: of seeds, over which evaluate.py measures the FID, into `fid.json`; none without.
        teacher: measure the FID of the teacher's own samples too.
        may_diverge: a run that ends in NaN is finished, with an infinite FID; otherwise it ends the study.

    Raises:
        UserError: train.py is not in the current folder, a finished run is of other words, another
            configuration or teacher and has no checkpoint left, or another process trains it.
    """
    if not Path("train.py").is_file():
        raise UserError("train.py: not in the current folder; start a study at the root of the repository")
    with Commands() as commands:
        each = partial(_train, commands, config, folder, ranges, teacher, may_diverge)
        side_by_side([partial(each, run) for run in runs], workers, "threading")


class Commands:
    """Commands that run side by side, of which none outlives the block: where one fails, the others are told
    to stop, as trainings do that keep their state, and no more are started."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen[str]] = set()
        self._over = False
        self._change = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._change:
            self._over = True
        for process in list(self.running):
            process.terminate()
        for process in list(self.running):
            process.wait()

    def run(self, *words: str) -> tuple[int, str]:
        """Exit status and standard error of Python with these words, on one thread.

        Raises:
            UserError: the block is over.
        """
        with self._change:
            if self._over:
                raise UserError("stopped, as another command failed")
            process = subprocess.Popen(
                [sys.executable, *words],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            self.running.add(process)
        _, error = process.communicate()
        self.running.discard(process)
        return process.returncode, error


def _train(
    commands: Commands,
    config: Path,
    folder: Path,
    ranges: int,
    teacher: bool,
    may_diverge: bool,
    run: TrainingRun,
) -> None:
    path, made = folder / run.name, made_of(config, run.words)
    if (path / FINISHED).is_file():
        differs = difference(path, run.words, made, ranges)
        if differs is None:
            return
        if not any((path / "checkpoints").glob("*.ckpt")):
            raise UserError(
                f"{path} {differs} and has no checkpoint to go on from; "
                "remove it to train it anew, or --runs names another folder"
            )
        (path / "fid.json").unlink(missing_ok=True)  # was of the shorter run
    if path.is_dir() and not any((path / "checkpoints").glob("*.ckpt")):
        with owned(path):  # ended before its first checkpoint, unless somebody trains it now
            shutil.rmtree(path)
    resume = ["--resume"] if path.is_dir() else []
    words = [f"name={run.name}", f"folder={folder}", *run.words]
    try:
        _python(commands, run, "train.py", "--config", str(config), *words, *resume)
    except UserError as error:
        if not (may_diverge and NON_FINITE in str(error)):
            raise
        finish(path, run.words, made, ranges, diverged=str(error))
        return
    if ranges and not (path / "fid.json").is_file():
        alone = () if teacher else ("--no-teacher",)
        _python(commands, run, "evaluate.py", "fid", "--run", str(path), "--ranges", str(ranges), *alone)
    finish(path, run.words, made, ranges)


def _python(commands: Commands, run: TrainingRun, *words: str) -> None:
    status, error = commands.run(*words)
    if status:
        last = (error.strip().splitlines() or [f"exit status {status}"])[-1]
        raise UserError(f"run {run.name}: {last.removeprefix('error: ')}")


def seconds_per_update(metrics: pd.DataFrame, least: int = 20) -> float:
    """Median seconds between logged updates, without the measurements in between.

    Args:
        metrics: of a run, in order.
        least: updates at the start that warm up.

    Raises:
        UserError: nothing is left.
    """
    measured = metrics.filter(["fid/fid", "variance/carv/total"]).notna().any(axis=1)
    before = metrics.shift()
    plain = (before.step >= least) & ~measured & ~measured.shift(fill_value=False)
    seconds = ((metrics.seconds - before.seconds) / (metrics.step - before.step))[plain]
    if seconds.empty:
        raise UserError(f"too few logged updates to time one, found {len(metrics)}")
    return float(seconds.quantile(interpolation="higher"))
