"""The picture of `dmd_gap`: variance and FID over student updates and over seconds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from carv_distill.figures import BLUE, GREEN, GREY, ORANGE, RED, draw_band, new_figure
from carv_distill.variance import Estimate, mean_estimate

COLOURS = (GREY, ORANGE, BLUE, GREEN, RED)


def draw_gap(points: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> Figure:
    """Left: total variance (solid) and variance with the upstream fixed (dashed); middle and right: FID.

    Lines are means over seeds (of the logarithm), bands their 95 % intervals.
    """
    figure = new_figure(3.6)
    left, middle, right = figure.subplots(1, 3)
    for arm, colour in zip(arms, COLOURS, strict=True):
        mine = [p for p in points if p["arm"] == arm]
        _curve(left, mine, "total", "step", colour, "-", arm)
        _curve(left, mine, "within", "step", colour, "--")
        _curve(middle, mine, "fid", "step", colour, "-")
        _curve(right, mine, "fid", "seconds", colour, "-")
    left.set(xlabel="student updates", ylabel="variance of the gradient (trace)")
    middle.set(xlabel="student updates", ylabel="FID of the student")
    right.set(xlabel="seconds, at the pilot's prices", ylabel="FID of the student")
    for axes in (left, middle, right):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.25)
    left.plot([], [], "k-", lw=1.4, label="total variance")
    left.plot([], [], "k--", lw=1.4, label="its part with the upstream fixed")
    left.fill_between([], [], color="0.7", label="95 % over seeds")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return figure


def _curve(
    axes: Axes,
    points: Sequence[Mapping[str, Any]],
    name: str,
    x: str,
    colour: str,
    style: str,
    label: str = "",
) -> None:
    steps = sorted({p["step"] for p in points if name in p and p["step"] > 0})
    places, found = [], []
    for step in steps:
        here = [p for p in points if p["step"] == step and name in p]
        places.append(statistics.fmean(p[x] for p in here))
        found.append(_log_mean([p[name] for p in here]))
    axes.plot(places, [e.value for e in found], style, color=colour, lw=1.4, label=label or None)
    if len(points) > len(steps):
        draw_band(axes, places, [e.low for e in found], [e.high for e in found], colour)


def _log_mean(values: Sequence[float]) -> Estimate:
    """Geometric mean with Student's interval of the logarithms."""
    e = mean_estimate([math.log(v) for v in values])
    return Estimate(math.exp(e.value), math.nan, math.exp(e.low), math.exp(e.high))
