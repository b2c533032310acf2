"""Many training runs side by side, each as a user would start it."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from carv_distill.cli import whole_number
from carv_distill.engine.metrics import Row, read_metrics
from carv_distill.errors import UserError
from carv_distill.files import write_json


def add_run_options(parser: argparse.ArgumentParser, updates: int, seeds: int) -> None:
    """The options of a study that trains: --updates, --seeds, --workers, --runs."""
    parser.add_argument(
        "--updates", type=whole_number(30), default=updates, help=f"see above ({updates}); without --quick"
    )
    parser.add_argument(
        "--seeds", type=whole_number(2), default=seeds, help=f"training seeds, without --quick ({seeds})"
    )
    parser.add_argument(
        "--workers", type=whole_number(1), default=2, help="runs side by side, one thread each (2)"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="where the runs are kept")


@dataclass(frozen=True)
class Job:
    """One run: its name, and what it overrides of the configuration."""

    name: str
    words: tuple[str, ...]


def run_jobs(
    jobs: Sequence[Job], config: Path, folder: Path, workers: int, ranges: int = 3, evaluate: bool = True
) -> None:
    """Trains and evaluates every job, `workers` at a time with one thread each; finished ones are kept.

    A run that was cut short goes on from its checkpoint. Each job leaves `<folder>/<name>/` as train.py
    makes it, with `fid.json` by evaluate.py if `evaluate`.

    Raises:
        UserError: train.py is not in the current folder, or a run failed; its last line is passed on.
    """
    if not Path("train.py").is_file():
        raise UserError("train.py: not in the current folder; start a study at the root of the repository")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as bar, ThreadPoolExecutor(workers) as pool:
        task = bar.add_task("runs", total=len(jobs))
        for name in pool.map(lambda job: _run(job, config, folder, ranges if evaluate else 0), jobs):
            bar.update(task, advance=1, description=f"done: {name}")
            if not bar.console.is_terminal:
                print(f"done: {name}", flush=True)


def _run(job: Job, config: Path, folder: Path, ranges: int) -> str:
    run, finished = folder / job.name, folder / job.name / "job.json"
    if finished.is_file():
        if json.loads(finished.read_text())["words"] == list(job.words):
            return job.name
        (run / "fid.json").unlink(missing_ok=True)  # was of the shorter run
    if run.is_dir() and not any((run / "checkpoints").glob("*.ckpt")):
        shutil.rmtree(run)  # ended before its first checkpoint
    resume = ["--resume"] if run.is_dir() else []
    words = [f"name={job.name}", f"folder={folder}", *job.words]
    _python(job, "train.py", "--config", str(config), *words, *resume)
    if ranges and not (run / "fid.json").is_file():
        _python(job, "evaluate.py", "fid", "--run", str(run), "--ranges", str(ranges), "--no-teacher")
    write_json(finished, {"words": list(job.words)})
    return job.name


def _python(job: Job, *words: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UserError(f"run {job.name}: {last.removeprefix('error: ')}")


def read_run(folder: Path, job: Job) -> list[Row]:
    """The rows of a job's metrics.csv."""
    return read_metrics(folder / job.name / "metrics.csv")


def fid_of(folder: Path, job: Job) -> float:
    """Mean FID of a job's student over the evaluated ranges of seeds."""
    reports = json.loads((folder / job.name / "fid.json").read_text())
    return float(reports["student, 1 step"]["summary"]["fid"]["mean"])


def seconds_per_update(rows: Sequence[Row], least: int = 20) -> float:
    """Median seconds between logged updates, without the measurements in between.

    Args:
        rows: of metrics.csv, in order.
        least: updates at the start that warm up.
    """
    measured = ("fid/fid", "variance/carv/total")
    plain = [
        (b["seconds"] - a["seconds"]) / (b["step"] - a["step"])
        for a, b in pairwise(rows)
        if a["step"] >= least and not any(name in row for name in measured for row in (a, b))
    ]
    ordered = sorted(plain)
    if not ordered:
        raise UserError(f"too few logged updates to time one, found {len(rows)}")
    return ordered[len(ordered) // 2]
