"""The pictures of `dmd_bottleneck`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from carv_distill.figures import BLUE, GREEN, GREY, ORANGE, RED, new_figure

from .exact_control import ESTIMATORS, FAKE_UPDATES, Point, fake_name

FAKE_COLOURS = (GREY, ORANGE, BLUE, GREEN)


def draw_exact(points: Sequence[Point]) -> Figure:
    """Top: distance to the data; bottom: Monte-Carlo variance (solid) and the fake score's error (dashed).

    One column per estimator, one colour per fake score; means over seeds. What is below the axis is zero to
    rounding, or in the dashed lines a difference that fell below zero.
    """
    figure = new_figure(5.2)
    grid = figure.subplots(2, len(ESTIMATORS), sharex=True, sharey="row")
    for column, estimator in enumerate(ESTIMATORS):
        top, bottom = grid[0][column], grid[1][column]
        for n, colour in zip(FAKE_UPDATES, FAKE_COLOURS, strict=True):
            mine = [p for p in points if p["estimator"] == estimator.name and p["fake_updates"] == n]
            steps = sorted({p["step"] for p in mine})
            distance, variance, fake = (
                [statistics.fmean(p[name] for p in mine if p["step"] == s) for s in steps]
                for name in ("distance", estimator.name, "fake")
            )
            top.plot(steps, distance, color=colour, lw=1.4, label=None if column else fake_name(n))
            bottom.plot(steps, variance, color=colour, lw=1.4)
            if n:
                bottom.plot(steps, fake, color=colour, lw=1.2, ls="--")
        top.set_title(estimator.name, fontsize=10)
        for axes, least in ((top, 1e-4), (bottom, 1e-5)):
            axes.set_yscale("log", nonpositive="mask")
            axes.set_ylim(bottom=least)
            axes.grid(alpha=0.25)
        bottom.set(xlabel="student updates")
    grid[0][0].set(ylabel="Wasserstein² to the data")
    grid[1][0].set(ylabel="squared gradient error")
    grid[1][0].plot([], [], "k-", lw=1.4, label="below: Monte-Carlo variance")
    grid[1][0].plot([], [], "k--", lw=1.2, label="below: the fake score's error")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def draw_levers(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """FID of every lever at equal compute, sorted, with 95 % intervals over seeds."""
    ordered = sorted(rows, key=lambda r: -r["fid"])
    figure = new_figure(4.6)
    axes = figure.add_subplot()
    places = range(len(ordered))
    colours = [RED if r["lever"] == "default" else BLUE for r in ordered]
    for place, row, colour in zip(places, ordered, colours, strict=True):
        axes.plot([row["fid_low"], row["fid_high"]], [place, place], color=colour, lw=2, alpha=0.5)
        axes.plot(row["fid"], place, "o", color=colour)
    axes.set_yticks(list(places), [r["lever"] for r in ordered])
    axes.set(xlabel="FID at equal compute (mean over seeds, 95 % interval)")
    axes.grid(alpha=0.25, axis="x")
    return figure
