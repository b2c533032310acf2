"""evaluate.py influence: which training samples shaped given ones, and how many draws that takes."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carv_distill.attribution.options import InfluenceOptions
from carv_distill.engine.task import Task, TrainedModel
from carv_distill.errors import UserError, named_as
from carv_distill.options import at_least

from .command import Command, Measurement, RunOptions


@dataclass(frozen=True)
class InfluenceCommandOptions(RunOptions, InfluenceOptions):
    """What `evaluate.py influence` is told."""

    top: int = at_least(1, 8)
    """training samples shown of each query"""


WITHOUT_RUN = "influence-"
"""How the names of folders begin that have the results of a teacher without a run."""
TYPED = {
    "teacher.path": "--teacher",
    "teacher.size": "--resolution",
    "data.path": "--data",
    "frames": "--resolution",
    "size": "--resolution",
    "data.name": "--data",
    "data.size": "--data",
    "data.convert": "--convert",
    "prompts.cache": "--cache",
}
"""What the options of a configuration are where a teacher is given without a run."""


def trained_model(o: InfluenceOptions, runs: list[Path], step: int | None) -> TrainedModel:
    """The model of a run, or of --teacher with --data."""
    from carv_distill.attribution.training_data import named_model

    if o.teacher is not None:
        if runs:
            raise UserError(
                f"--teacher: {o.teacher} is given beside the run {runs[0]}; one of the two is meant"
            )
        return named_model(o)
    task, config = INFLUENCE.open(runs[0], o)
    assert task.model is not None
    return task.model(config, runs[0], step)


def _measure(options: InfluenceCommandOptions, runs: list[Path], device: str) -> Measurement | None:
    from carv_distill.attribution.measure import measure_influence
    from carv_distill.attribution.report.advice import verdict
    from carv_distill.attribution.report.figures import draw_influence
    from carv_distill.attribution.report.report import (
        conclusions,
        influence_dict,
        influence_table,
        voted_table,
    )

    o = options
    folder = o.out.with_suffix("") if o.out else Path(runs[0] if runs else _place(o) or "", "influence")

    def trained(step: int | None) -> TrainedModel:
        return trained_model(o, runs, step)

    typed = {} if o.teacher is None else TYPED
    with named_as(typed):
        measured = measure_influence(trained, options, folder, device)
    if measured is None:
        return None
    count = min(o.top, 5)
    tables = (influence_table(measured, count), voted_table(measured, count))
    said = [*(f"{table}\n" for table in tables if table), *conclusions(measured)]
    result = influence_dict(measured, o.top, sys.argv) | {"options": o.of_samples()}
    return Measurement(
        [*said, f"scores: {measured.scores}"],
        result,
        draw=lambda: draw_influence(measured, o.top, folder),
        verdict=verdict(measured, sys.argv),
    )


def _place(o: InfluenceCommandOptions) -> Path | None:
    """Of a teacher without a run, as runs/influence-checkpoints-digits-teacher-of-digits."""
    if o.teacher is None:
        return None
    name = "-".join(part for part in Path(o.teacher).parts[-2:] if part.strip("./"))
    return o.runs / f"{WITHOUT_RUN}{_name(name) or 'teacher'}-of-{_name(Path(o.data or '').stem) or 'data'}"


def _name(words: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", words).strip("-.")


def _refusal(task: Task, config: Any, options: InfluenceOptions) -> str:
    if reason := task.no_model(config):
        return reason
    if options.checkpoints and not task.model_at_steps:
        able = " or ".join(t.name for t in INFLUENCE.tasks if t.model_at_steps)
        return (
            f"--checkpoints: they are read of runs of task {able}, this run's is {task.name}; give such a "
            "run by --run, or another --score without them"
        )
    return ""


INFLUENCE = Command(
    "influence",
    "which training samples shaped given ones",
    InfluenceCommandOptions,
    _measure,
    "model",
    "interrupted; the features made so far are in the store, the same command goes on with them",
    _refusal,
    _place,
    shared=True,
)
