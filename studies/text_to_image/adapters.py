"""All weights against low-rank adapters, at equal seconds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from carv_distill.variance import mean_estimate
from studies.cached import once
from studies.intervals import paired_differences
from studies.runs import TrainingRun, seconds_per_update, train_all
from studies.sentences import estimate, sentence
from studies.study import Row, columns

CONFIG = Path("configs/text_to_image/dmd_shapes.yaml")
FULL, LORA = "all weights", "LoRA, rank 16"
RATES = (1, 3, 10)
"""Multiples of the configuration's learning rates among which the pilot chooses LoRA's."""
STUDENT, FAKE = 1e-4, 3e-4
"""The configuration's rates."""
PILOT_SEED = 12345
METRICS = ("fid", "precision", "recall", "recognised")


@dataclass(frozen=True)
class Plan:
    """Of the pilot."""

    full: float
    """Seconds of an update of all weights, one thread."""
    lora: float
    """Of an update of adapters."""
    rate: int
    """The multiple of the rates for adapters."""

    def updates(self, full: int) -> int:
        """Those of adapters that take the seconds of so many of all weights."""
        return round(full * self.full / self.lora)


def training(arm: str, updates: int, seed: int, rate: int = 1, name: str = "") -> TrainingRun:
    """One training of an arm; evaluated at its end alone."""
    words = [f"seed={seed}", f"trainer.max_steps={updates}", "fid.every=0", "checkpoint.every=60"]
    words += ["preview.every=0", "checkpoint.keep_newest=99"]
    if arm == LORA:
        rates = f"dmd.student_lr={STUDENT * rate:g}", f"dmd.fake_lr={FAKE * rate:g}"
        words += ["dmd.adapters.kind=lora", "dmd.adapters.rank=16", *rates]
    kind = "lora" if arm == LORA else "full"
    return TrainingRun(f"{name}{kind}-{rate}-seed{seed}", tuple(words))


def pilot(folder: Path, updates: int, workers: int) -> Plan:
    """Seconds of both arms, and the rate of adapters with the lowest Fréchet distance after the seconds of so
    many updates of all weights; it stays in `plan.json`."""
    return once(folder / "plan.json", Plan, lambda: _pilot(folder, updates, workers))


def _pilot(folder: Path, updates: int, workers: int) -> Plan:
    timed = [training(arm, 50, PILOT_SEED, name="timed-") for arm in (FULL, LORA)]
    train_all(timed, CONFIG, folder, workers=1)
    full, lora = (seconds_per_update(run.metrics(folder)) for run in timed)
    length = Plan(full, lora, 1).updates(updates)
    tried = {rate: training(LORA, length, PILOT_SEED, rate, "pilot-") for rate in RATES}
    train_all(list(tried.values()), CONFIG, folder, workers, ranges=3)
    return Plan(full, lora, min(tried, key=lambda rate: tried[rate].fid(folder)))


def arms(plan: Plan, updates: int, seeds: Sequence[int]) -> dict[str, list[TrainingRun]]:
    """The trainings of both arms, by seed."""
    lora = plan.updates(updates)
    return {
        FULL: [training(FULL, updates, seed, name="equal-") for seed in seeds],
        LORA: [training(LORA, lora, seed, plan.rate, name="equal-") for seed in seeds],
    }


def length(run: TrainingRun) -> int:
    """Updates of a training; the last of them need not be a row of its metrics."""
    (updates,) = (word.partition("=")[2] for word in run.words if word.startswith("trainer.max_steps="))
    return int(updates)


def read(runs: Mapping[str, Sequence[TrainingRun]], folder: Path) -> dict[str, dict[str, list[float]]]:
    """Metric → arm → a value per seed, each a mean over the evaluated ranges of images."""
    found: dict[str, dict[str, list[float]]] = {metric: {} for metric in METRICS}
    for arm, trainings in runs.items():
        for metric in METRICS:
            found[metric][arm] = [_mean(folder / run.name, metric) for run in trainings]
    return found


def _mean(run: Path, metric: str) -> float:
    report = json.loads((run / "fid.json").read_text())["student, 1 step"]
    return float(report["summary"][metric]["mean"])


def summarise(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    runs: Mapping[str, Sequence[TrainingRun]],
    plan: Plan,
    folder: Path,
) -> list[Row]:
    """A row per arm: its figures over seeds, and of adapters the difference of the Fréchet distance."""
    seconds = {FULL: plan.full, LORA: plan.lora}
    rows = []
    for arm in (FULL, LORA):
        updates = length(runs[arm][0])
        row: Row = {"arm": arm, "updates": updates, "seconds_per_update": seconds[arm]}
        row["rate"] = plan.rate if arm == LORA else 1
        own = statistics.median(seconds_per_update(run.metrics(folder)) for run in runs[arm])
        row["seconds_measured"] = updates * own
        for metric in METRICS:
            row |= columns(metric, mean_estimate(values[metric][arm]))
            row[f"{metric}_by_seed"] = [round(v, 4) for v in values[metric][arm]]
        rows.append(row)
    difference = paired_differences(values["fid"], [(LORA, FULL)])[LORA, FULL]
    rows[-1] |= columns("fid_difference", difference)
    return rows


def sentences(rows: Sequence[Row]) -> list[str]:
    """The comparison in words."""
    full, lora = rows
    said = [
        f"{row['arm']}, {row['updates']} updates of {row['seconds_per_update']:.2f} s: "
        + ", ".join(f"{metric} {statistics.fmean(row[f'{metric}_by_seed']):.3f}" for metric in METRICS)
        + "."
        for row in (full, lora)
    ]
    apart = {"at equal seconds": estimate(lora, "fid_difference")}
    said.append(sentence("Fréchet distance, adapters less all weights", apart, 0, "lower", "higher"))
    spent = lora["seconds_measured"] / full["seconds_measured"]
    said.append(
        f"The trainings themselves, two at a time, took adapters {spent:.2f} of the seconds of all weights."
    )
    if lora["rate"] == RATES[-1]:
        said.append("The pilot's best rate for adapters is the greatest it tried.")
    return said
