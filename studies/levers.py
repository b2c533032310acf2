"""The levers of one-step distillation, each turned alone at equal compute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carv_distill.variance import mean_estimate
from studies.blocks import block_differences, exponential
from studies.jobs import Job, fid_of
from studies.results import columns

CONFIG = Path("configs/dmd_carv.yaml")
BATCH = 48
"""Fake-score batch of the configuration."""


@dataclass(frozen=True)
class Lever:
    """One change to the default settings."""

    name: str
    words: tuple[str, ...] = ()
    upstream: int = 32
    draws: int = 4
    fake_updates: int = 2

    @property
    def cost(self) -> int:
        """Network calls per update in forward passes of one sample; a backward counts two.

        Student 3 R, frozen networks 2 R K, the fake score's samples B and its updates 3 B each.
        """
        return 3 * self.upstream + 2 * self.upstream * self.draws + BATCH + 3 * BATCH * self.fake_updates

    def updates(self, budget: int) -> int:
        """Student updates in the compute of `budget` default updates."""
        return round(budget * LEVERS[0].cost / self.cost)

    def job(self, seed: int, budget: int) -> Job:
        """Its run with one seed."""
        words = (
            f"estimator.upstream={self.upstream}",
            f"estimator.draws={self.draws}",
            f"dmd.fake_updates_per_student={self.fake_updates}",
            f"trainer.max_steps={self.updates(budget)}",
            f"seed={seed}",
            "variance.every=0",
            "fid.every=0",
            "checkpoint.keep_best=0",
            *self.words,
        )
        name = self.name.replace("/", "over").replace("×", "times")
        name = "".join(c if c.isalnum() else "-" for c in name)
        return Job(f"{name}-seed{seed}", words)


LEVERS = (
    Lever("default"),
    Lever("R = 8", upstream=8),
    Lever("R = 128", upstream=128),
    Lever("K = 1", draws=1),
    Lever("K = 16", draws=16),
    Lever("iid levels", ("estimator.strategy=iid",)),
    Lever("1 fake update", fake_updates=1),
    Lever("5 fake updates", fake_updates=5),
    Lever("student lr / 3", ("dmd.student_lr=2e-4",)),
    Lever("student lr × 2", ("dmd.student_lr=1.2e-3",)),
    Lever("fake lr / 3", ("dmd.fake_lr=2e-4",)),
    Lever("fake lr × 3", ("dmd.fake_lr=1.8e-3",)),
    Lever("no EMA", ("dmd.ema=0",)),
    Lever("constant lr", ("dmd.lr_decay=none",)),
)


def lever_rows(folder: Path, seeds: Sequence[int], budget: int) -> tuple[list[dict[str, Any]], list[str]]:
    """FID of every lever over seeds, its ratio to the default's with intervals that hold for all levers at
    once (:func:`block_differences` of log FID), and what that says."""
    fids = {lever.name: [fid_of(folder, lever.job(seed, budget)) for seed in seeds] for lever in LEVERS}
    logs = {name: [math.log(fid) for fid in values] for name, values in fids.items()}
    default = LEVERS[0].name
    differences = block_differences(logs, [(name, default) for name in fids if name != default])
    rows: list[dict[str, Any]] = []
    said = []
    for lever in LEVERS:
        row = {
            "lever": lever.name,
            "updates": lever.updates(budget),
            **columns("fid", mean_estimate(fids[lever.name], positive=True)),
        }
        if lever.name != default:
            e = exponential(differences[lever.name, default])
            row |= columns("fid_ratio", e)
            sense = "lower" if e.high < 1 else "higher" if e.low > 1 else "not resolved"
            said.append(
                f"{lever.name}: FID {sense} at equal compute, {e.value:.3g} [{e.low:.3g}, {e.high:.3g}] "
                "times the default's"
            )
        rows.append(row)
    return rows, said
