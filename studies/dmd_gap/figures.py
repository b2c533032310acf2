"""The picture of the study: variance, FID on the way, and where every seed ends."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from carv_distill.figures import BLUE, GREEN, GREY, ORANGE, RED, new_figure
from carv_distill.variance import mean_estimate
from studies.dmd_gap.arms import BASE, LONGER
from studies.intervals import exponential
from studies.plots import draw_curve, plain_numbers
from studies.study import Row, columns

COLOURS = (GREY, GREY, ORANGE, BLUE, GREEN, RED, "tab:purple")
MARKERS = ("o", "D", "s", "^", "v", "P", "X")


def draw_gap(traces: Sequence[Row], runs: Sequence[Row], width: float, levels: dict[str, float]) -> Figure:
    """Left: variance of the gradient over updates, in total (solid) and with the samples fixed (dashed).
    Middle: FID over seconds. Right: the final FID of every seed, its mean and 95 % interval, and the band of
    the baseline; lines for what else was measured (`levels`, as the teacher's FID and the floor).

    Lines are means over seeds (of the logarithm), bands their 95 % intervals.
    """
    figure = new_figure(4.4)
    left, middle, right = figure.subplots(1, 3)
    table = pd.DataFrame(traces)
    names = list(dict.fromkeys(table.arm))
    for arm, colour, marker in zip(names, COLOURS, MARKERS, strict=False):
        mine = table[table.arm == arm]
        style = f"{marker}-"
        if arm != LONGER:
            _curve(left, mine, "total", "step", colour, style)
            _curve(left, mine, "within", "step", colour, f"{marker}--")
        if arm != BASE:
            _curve(middle, mine, "fid", "seconds", colour, style)
    left.set(xlabel="student updates", ylabel="variance of the gradient (trace)")
    middle.set(xlabel="seconds, at the pilot's prices", ylabel="FID of the student")
    for axes in (left, middle):
        axes.set_yscale("log")
        plain_numbers(axes.yaxis, LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.grid(alpha=0.25)
    left.plot([], [], "k-", lw=1.4, label="in total")
    left.plot([], [], "k--", lw=1.4, label="samples fixed")
    left.legend(frameon=False, fontsize=7)
    _ends(right, names, runs, width, levels)
    for arm, colour, marker in zip(names, COLOURS, MARKERS, strict=False):
        middle.plot([], [], f"{marker}-", color=colour, label=arm, ms=4)
    figure.legend(
        *middle.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, fontsize=8
    )
    return figure


def _ends(
    axes: Axes, names: Sequence[str], runs: Sequence[Row], width: float, levels: dict[str, float]
) -> None:
    table = pd.DataFrame(runs)
    middle = statistics.fmean(table[table.arm == LONGER].fid)
    axes.axhspan(middle - width, middle + width, color=GREY, alpha=0.15, label="band of the baseline")
    for place, (arm, colour, marker) in enumerate(zip(names, COLOURS, MARKERS, strict=False)):
        fids = table[table.arm == arm].fid.tolist()
        axes.plot([place - 0.15] * len(fids), fids, ".", color=colour, ms=4, alpha=0.6)
        mean = mean_estimate(fids)
        ends = [[mean.value - mean.low], [mean.high - mean.value]]
        axes.errorbar([place + 0.15], [mean.value], ends, color=colour, marker=marker, ms=5, lw=1.5)
    for style, (name, level) in zip(("k--", "k:"), levels.items(), strict=False):
        axes.plot([-0.5, len(names) - 0.5], [level, level], style, lw=1, label=name)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=7)
    axes.set(ylabel="final FID of the student")
    axes.grid(alpha=0.25, axis="y")
    axes.legend(frameon=False, fontsize=7)


def _curve(axes: Axes, mine: pd.DataFrame, name: str, x: str, colour: str, style: str) -> None:
    measured = mine[mine.step > 0].dropna(subset=name)
    rows = []
    for _, here in measured.groupby("step"):
        mean = exponential(mean_estimate(np.log(here[name]).tolist()))
        rows.append({x: statistics.fmean(here[x]), **columns(name, mean)})
    draw_curve(axes, pd.DataFrame(rows, dtype=float), x, name, colour, None, style, lw=1.2)
