"""The pictures of the study: variance and FID on the way and at the end, and what the states of a run say."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from carv_distill.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    draw_band,
    new_figure,
    use_logarithm,
    use_powers,
)
from carv_distill.variance import mean_estimate
from studies.dmd_gap.arms import BASE, LONGER, REUSE, STRATA
from studies.intervals import exponential
from studies.plots import draw_curve
from studies.study import Row, columns

COLOURS = (GREY, GREY, ORANGE, BLUE, GREEN, RED, "tab:purple")
MARKERS = ("o", "D", "s", "^", "v", "P", "X")
OF_STATES = {BASE: (GREY, "o"), REUSE: (ORANGE, "s"), STRATA: (BLUE, "^")}
"""Estimator → its colour and marker, as in the other figure."""
VARIANCES = {
    "total": "gradient, in total",
    "within": "gradient, samples fixed",
    "difference": "difference of scores",
    "teacher": "teacher's score",
}


def draw_gap(traces: Sequence[Row], runs: Sequence[Row], width: float, levels: Mapping[str, float]) -> Figure:
    """Above: variance of the gradient over updates, in total and with the samples fixed. Middle: FID over
    updates and over seconds. Below: the final FID of every seed, its mean and 95 % interval, and the band of
    the baseline; lines for what else was measured (`levels`, as the teacher's FID and the floor).

    Curves are means over the seeds that all arms have (of the logarithm), bands their 95 % intervals; those
    of FID are of the baseline alone, as all arms have theirs below, with all their seeds.
    """
    figure = new_figure(10)
    places = figure.subplot_mosaic([["total", "within"], ["updates", "seconds"], ["ends", "ends"]])
    table = pd.DataFrame(traces)
    names = list(dict.fromkeys(table.arm))
    common = set.intersection(*(set(of.seed) for _, of in table.groupby("arm")))
    table = table[table.seed.isin(common)]
    for arm, colour, marker in zip(names, COLOURS, MARKERS, strict=False):
        mine, style = table[table.arm == arm], f"{marker}-"
        if arm != LONGER:
            _curve(places["total"], mine, "total", "step", colour, style)
            _curve(places["within"], mine, "within", "step", colour, style)
            _curve(places["updates"], mine, "fid", "step", colour, style, band=arm == BASE)
        if arm != BASE:
            _curve(places["seconds"], mine, "fid", "seconds", colour, style, band=arm == LONGER)
        places["ends"].plot([], [], f"{marker}-", color=colour, label=arm, ms=4)
    drawn = places["ends"].get_legend_handles_labels()
    figure.legend(*drawn, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    _ends(places["ends"], names, runs, width, levels)
    places["total"].set(xlabel="student updates", ylabel="variance of the gradient, in total")
    places["within"].set(xlabel="student updates", ylabel="… with the samples held fixed")
    places["updates"].set(xlabel="student updates", ylabel="FID of the student")
    places["seconds"].set(xlabel="seconds, at the pilot's costs", ylabel="FID of the student")
    for name in ("total", "within", "updates", "seconds"):
        _logarithmic(places[name])
    return figure


def _ends(
    axes: Axes, names: Sequence[str], runs: Sequence[Row], width: float, levels: Mapping[str, float]
) -> None:
    table = pd.DataFrame(runs)
    middle = statistics.fmean(table[table.arm == LONGER].fid)
    band = axes.axhspan(middle - width, middle + width, color=GREY, alpha=0.15, label="band of the baseline")
    shown: list[Artist] = [band]
    for place, (arm, colour, marker) in enumerate(zip(names, COLOURS, MARKERS, strict=False)):
        fids = table[table.arm == arm].fid.tolist()
        axes.plot([place - 0.15] * len(fids), fids, ".", color=colour, ms=4, alpha=0.6)
        mean = mean_estimate(fids)
        ends = [[mean.value - mean.low], [mean.high - mean.value]]
        axes.errorbar([place + 0.15], [mean.value], ends, color=colour, marker=marker, ms=5, lw=1.5)
    for style, (name, level) in zip(("k--", "k:"), levels.items(), strict=False):
        shown += axes.plot([-0.5, len(names) - 0.5], [level, level], style, lw=1, label=name)
    counts = [f"{name}\n{(table.arm == name).sum()} seeds".replace(", ", ",\n") for name in names]
    axes.set_xticks(range(len(names)), counts, fontsize=7)
    axes.set(ylabel="final FID of the student")
    axes.grid(alpha=0.25, axis="y")
    axes.legend(handles=shown, frameon=False, fontsize=7)


def _curve(
    axes: Axes, mine: pd.DataFrame, name: str, x: str, colour: str, style: str, band: bool = True
) -> None:
    measured = mine[mine.step > 0].dropna(subset=name)
    rows = []
    for _, here in measured.groupby("step"):
        mean = exponential(mean_estimate(np.log(here[name]).tolist()))
        rows.append({x: statistics.fmean(here[x]), **columns(name, mean)})
    curve = pd.DataFrame(rows, dtype=float)
    if band:
        draw_curve(axes, curve, x, name, colour, None, style, lw=1.2)
    elif len(curve):
        axes.plot(curve[x], curve[name], style, color=colour, lw=1.2, ms=4)


def _logarithmic(axes: Axes) -> None:
    use_logarithm(axes, "y")
    axes.grid(alpha=0.25)


def draw_states(rows: Sequence[Row]) -> Figure:
    """Above: how many times lower each of the four variances is at (8,16) than at (8,1), on the same states.
    Below: what is left of the gradient's variance after the student's average, over its signal, open markers
    a lower bound where the signal is not told from 0; and the same without the division, beside the fake
    score's error and the signal without it.

    Args:
        rows: as :func:`~studies.dmd_gap.states.measure_states` has them.
    """
    figure = new_figure(7)
    axes = figure.subplots(2, 2)
    table = pd.DataFrame(rows)
    steps = sorted(table.step.unique())
    of = {name: table[table.estimator == name].set_index("step") for name in OF_STATES}
    for place, arm in zip(axes[0], (REUSE, STRATA), strict=True):
        for (part, name), marker in zip(VARIANCES.items(), MARKERS, strict=False):
            place.plot(steps, (of[BASE][part] / of[arm][part]).loc[steps], f"{marker}-", label=name, ms=4)
        place.set(title=arm, ylabel=f"variance of {BASE} over its own")
    axes[0, 1].sharey(axes[0, 0])
    axes[0, 0].legend(frameon=False, fontsize=7)
    left, error = axes[1]
    for arm, (colour, marker) in OF_STATES.items():
        own = of[arm].loc[steps]
        left.plot(steps, own.noise_left, f"{marker}-", color=colour, label=arm, ms=4)
        least = own.noise_left.where(own.noise_left_least.astype(bool))
        left.plot(steps, least, "^", color="white", mec=colour, ms=9, zorder=0.5)
        error.plot(steps, own.total / own.horizon, f"{marker}-", color=colour, label=f"V/H, {arm}", ms=4)
    lag = of[BASE].loc[steps]
    for name, colour, label in (
        ("lag", RED, "|error of the fake score|²"),
        ("exact_signal", GREEN, "|E g*|², without it"),
    ):
        low, high = (lag[f"{name}_{end}"].tolist() for end in ("low", "high"))
        error.plot(steps, lag[name], "v-", color=colour, label=label, ms=4)
        draw_band(error, steps, low, high, colour)
    left.set(ylabel="noise left after averaging, V/(H |E g|²)")
    error.set(ylabel="of the averaged gradient, squared")
    for place in axes.flat:
        _logarithmic(place)
        use_powers(place, steps)
        place.set(xlabel="student updates")
    for place in (left, error):
        low, high = place.get_ylim()
        place.set_ylim(low, high * (high / low) ** 0.35)  # room for the legend
        place.legend(frameon=False, fontsize=7, loc="upper right", ncols=2)
    return figure
