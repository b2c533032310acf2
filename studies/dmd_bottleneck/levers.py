"""The levers of one-step distillation, each turned alone at equal compute."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from carv_distill.figures import BLUE, GREY, RED, new_figure, use_logarithm
from carv_distill.variance import mean_estimate
from studies.intervals import block_differences, exponential
from studies.runs import TrainingRun, plain_name
from studies.sentences import estimate, sentence
from studies.study import Row, columns

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

    def run(self, seed: int, budget: int) -> TrainingRun:
        """Its run with one seed."""
        words = (
            f"estimator.upstream={self.upstream}",
            f"estimator.draws={self.draws}",
            f"dmd.fake_updates_per_student={self.fake_updates}",
            f"trainer.max_steps={self.updates(budget)}",
            f"seed={seed}",
            "variance.every=0",
            "fid.every=0",
            "preview.every=0",
            "fid.labels=turn",  # steadier: settings are compared with each other
            "checkpoint.keep_best=0",
            *self.words,
        )
        name = plain_name(self.name.replace("/", "over").replace("×", "times"))
        return TrainingRun(f"{name}-seed{seed}", words)


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


def summarise(fids: Mapping[str, Sequence[float]], budget: int) -> list[Row]:
    """FID of every lever over seeds, and its ratio to the default's with intervals that hold for all levers
    at once (:func:`block_differences` of log FID). `fids`: lever → FID by seed."""
    logs = {name: [math.log(fid) for fid in values] for name, values in fids.items()}
    default = LEVERS[0].name
    differences = block_differences(logs, [(name, default) for name in fids if name != default])
    rows = []
    for lever in LEVERS:
        row: Row = {"lever": lever.name, "updates": lever.updates(budget)}
        row |= columns("fid", mean_estimate(fids[lever.name], positive=True))
        if lever.name != default:
            row |= columns("fid_ratio", exponential(differences[lever.name, default]))
        rows.append(row)
    return rows


def verdict(rows: Sequence[Row]) -> list[str]:
    """Which lever moves FID."""
    ratios = {row["lever"]: estimate(row, "fid_ratio") for row in rows[1:]}
    return [sentence("FID over the default's at equal compute", ratios, 1, "lower", "higher")]


def draw_levers(rows: Sequence[Row]) -> Figure:
    """FID of every lever over the default's at equal compute, sorted; intervals hold for all at once."""
    default, *levers = rows
    figure = new_figure(4.6)
    axes = figure.add_subplot()
    ordered = sorted(levers, key=lambda row: -row["fid_ratio"])
    for place, row in enumerate(ordered):
        low, high = row["fid_ratio_low"], row["fid_ratio_high"]
        colour = BLUE if high < 1 else RED if low > 1 else GREY
        axes.plot([low, high], [place, place], color=colour, lw=2, alpha=0.5)
        axes.plot(row["fid_ratio"], place, "o", color=colour)
    axes.axvline(1, color="0.4", ls=":")
    use_logarithm(axes, "x")
    axes.set_yticks(range(len(ordered)), [f"{r['lever']} ({r['updates']} updates)" for r in ordered])
    spent = f"{default['fid']:.2f} after {default['updates']} updates"
    axes.set(
        xlabel=f"FID over that of the default ({spent}), at equal network calls;\n"
        "95 % intervals for all at once, red or blue where they leave out 1"
    )
    axes.grid(alpha=0.25, axis="x")
    return figure
