"""The pictures of `dmd_bottleneck`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from carv_distill.figures import BLUE, GREEN, GREY, ORANGE, RED, new_figure
from studies.exact_control import ESTIMATORS, FAKE_UPDATES, Point, fake_name

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
    grid[1][0].plot([], [], "k-", lw=1.4, label="lower row: Monte-Carlo variance")
    grid[1][0].plot([], [], "k--", lw=1.2, label="lower row: the fake score's error")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def draw_levers(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """FID of every lever over the default's at equal compute, sorted; intervals hold for all at once."""
    ordered = sorted((r for r in rows if "fid_ratio" in r), key=lambda r: -r["fid_ratio"])
    figure = new_figure(4.6)
    axes = figure.add_subplot()
    for place, row in enumerate(ordered):
        low, high = row["fid_ratio_low"], row["fid_ratio_high"]
        colour = BLUE if high < 1 else RED if low > 1 else GREY
        axes.plot([low, high], [place, place], color=colour, lw=2, alpha=0.5)
        axes.plot(row["fid_ratio"], place, "o", color=colour)
    axes.axvline(1, color="0.4", ls=":")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(ordered)), [f"{r['lever']} ({r['updates']} updates)" for r in ordered])
    default = next(r for r in rows if "fid_ratio" not in r)
    spent = f"{default['fid']:.2f} after {default['updates']} updates"
    axes.set(
        xlabel=f"FID over that of the default ({spent}), at equal network calls;\n"
        "95 % intervals for all at once, red or blue where they leave out 1"
    )
    axes.grid(alpha=0.25, axis="x")
    return figure
