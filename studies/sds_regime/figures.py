"""The gate and the map of cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from carv_distill.figures import BLUE, GREEN, GREY, ORANGE, RED, draw_band, new_figure, use_logarithm
from carv_distill.variance import VarianceBudget
from studies.plots import draw_curve, plain_numbers
from studies.sds_frontier.quality import bands
from studies.sds_regime import race
from studies.sds_regime.cells import CAMERAS, PROMPTS, Cell, least, within_over_between
from studies.study import Row

COLOURS = (BLUE, ORANGE, GREEN, RED)


def draw_gate(measured: Mapping[Cell, VarianceBudget]) -> Figure:
    """W/B at the steps of each run, pictures per draw (filled) and per render (hollow), with intervals; a
    triangle is the least that it is where B is not told from 0. 10 is the gate."""
    figure = new_figure(3.6)
    axes = figure.add_subplot()
    plain = [cell for cell in measured if not cell.regularised]
    steps = sorted({cell.step for cell in plain})
    runs = sorted({(cell.prompt, cell.seed) for cell in plain}, key=lambda run: PROMPTS.index(run[0]))
    for cell in plain:
        colour = COLOURS[PROMPTS.index(cell.prompt)]
        place = steps.index(cell.step) + 0.6 * (
            (runs.index((cell.prompt, cell.seed)) + 0.5) / len(runs) - 0.5
        )
        face = colour if cell.augment == "draw" else "white"
        _point(axes, measured[cell], place, colour, face, along="y")
    for prompt, colour in zip(dict.fromkeys(prompt for prompt, _ in runs), COLOURS, strict=False):
        axes.plot([], [], "o", color=colour, label=prompt)
    axes.plot([], [], "ko", label="pictures per draw")
    axes.plot([], [], "ko", mfc="white", label="per render")
    axes.plot([], [], "k^", label="at least")
    axes.axhline(10, color=GREY, lw=0.8, ls=":")
    axes.set(xlabel="steps", ylabel="variance within / between renders", xticks=range(len(steps)))
    axes.set_xticklabels([str(step) for step in steps])
    use_logarithm(axes, "y")
    axes.grid(alpha=0.25, axis="y")
    figure.legend(loc="outside upper center", ncols=6, frameon=False, fontsize=8)
    return figure


def draw_cameras(measured: Mapping[Cell, VarianceBudget]) -> Figure:
    """W/B under each choice of cameras, prompts beside each other; a triangle is the least that it is."""
    figure = new_figure(3.6)
    axes = figure.add_subplot()
    names = list(CAMERAS)
    for cell, b in measured.items():
        number = PROMPTS.index(cell.prompt)
        place = names.index(cell.cameras) + 0.2 * (number - 1)
        _point(axes, b, place, COLOURS[number], COLOURS[number], along="x")
    for prompt, colour in zip(dict.fromkeys(cell.prompt for cell in measured), COLOURS, strict=False):
        axes.plot([], [], "o", color=colour, label=prompt)
    axes.plot([], [], "k>", label="at least")
    axes.axvline(10, color=GREY, lw=0.8, ls=":")
    axes.set(xlabel="variance within / between renders", yticks=range(len(names)), yticklabels=names)
    use_logarithm(axes, "x")
    axes.invert_yaxis()
    axes.grid(alpha=0.25, axis="x")
    figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    return figure


def _point(
    axes: Axes, b: VarianceBudget, place: float, colour: str, face: str, along: Literal["x", "y"]
) -> None:
    """W/B with its interval on the axis `along`, or the least that it is where B is not told from 0."""
    found = within_over_between(b)
    if found is None:
        x, y = (place, least(b)) if along == "y" else (least(b), place)
        axes.plot(x, y, "^" if along == "y" else ">", ms=5, color=colour, mfc=face)
        return
    ends = [[found.value - found.low], [found.high - found.value]]
    x, y = (place, found.value) if along == "y" else (found.value, place)
    across, up = (ends, None) if along == "x" else (None, ends)
    axes.errorbar(x, y, xerr=across, yerr=up, fmt="o", ms=4, color=colour, mfc=face, lw=1)


def draw_worth(rows: Sequence[Row]) -> Figure:
    """Effective compute over K of every sampler; crosses are the paper's figures at K = 8."""
    table = pd.DataFrame(rows)
    figure = new_figure(3.6)
    axes = figure.add_subplot()
    for (arm, mine), colour in zip(table.groupby("sampler", sort=False), (GREY, *COLOURS), strict=False):
        draw_curve(axes, mine, "draws", "effective_compute_2", colour, str(arm))
        paper = mine.dropna(subset="paper") if "paper" in mine else mine[:0]
        axes.plot(paper.draws, paper.paper, "x", color=colour)
    axes.plot([], [], "kx", label="paper, by colour")
    axes.set(xscale="log", xlabel="K", ylabel="effective compute against uniform (2, 1)")
    plain_numbers(axes.xaxis, (1, 2, 4, 8, 16))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_race(measured: pd.DataFrame) -> Figure:
    """Likeness and CLIP score over seconds of training, means over prompts and seeds; bands: 95 % over seeds.
    Arms of one seed are dashed, as is the baseline of that seed, which they are compared with."""
    figure = new_figure(3.6)
    for column, axes in zip(("likeness", "clip"), figure.subplots(1, 2), strict=True):
        seconds, curves = race.on_grid(measured, column)
        for (name, values), colour in zip(curves.items(), (GREY, BLUE, RED, ORANGE, GREEN), strict=True):
            several, label = values.shape[1] > 1, name if column == "clip" else None
            mean = values.mean((0, 1))
            axes.plot(seconds, mean, color=colour, label=label, ls="-" if several else "--")
            if name == race.BASE.name and len({v.shape[1] for v in curves.values()}) > 1:
                first = f"{name}, first seed" if column == "clip" else None
                axes.plot(seconds, values[:, 0].mean(0), color=colour, label=first, ls="--")
            if several:
                mean, half = bands(values)
                draw_band(axes, seconds.tolist(), (mean - half).tolist(), (mean + half).tolist(), colour)
        axes.set(xlabel="seconds of training, one thread", xlim=(0, None))
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("intersection over union with the solid")
    figure.axes[1].set_ylabel("CLIP score over 12 views")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return figure
