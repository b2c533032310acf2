"""The pictures of `dmd_bottleneck`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from carv_distill.figures import BLUE, GREEN, GREY, ORANGE, RED, new_figure

FAKE_COLOURS = (GREY, ORANGE, BLUE, GREEN)


def draw_exact(
    points: Sequence[Mapping[str, Any]], estimators: Sequence[tuple[int, int, str]], fakes: Sequence[int]
) -> Figure:
    """Top: distance to the data; bottom: Monte-Carlo variance (solid) and the fake score's error (dashed).

    One column per estimator, one colour per fake score; geometric means over seeds.
    """
    figure = new_figure(5.2)
    grid = figure.subplots(2, len(estimators), sharex=True, sharey="row")
    for column, (r, k, strategy) in enumerate(estimators):
        top, bottom = grid[0][column], grid[1][column]
        for n, colour in zip(fakes, FAKE_COLOURS, strict=True):
            mine = [p for p in points if p["estimator"] == f"({r},{k}) {strategy}" and p["fake_updates"] == n]
            steps = sorted({p["step"] for p in mine})

            def curve(
                name: str, mine: list[Mapping[str, Any]] = mine, steps: list[int] = steps
            ) -> list[float]:
                return [
                    statistics.geometric_mean(max(p[name], 1e-9) for p in mine if p["step"] == s)
                    for s in steps
                ]

            label = f"{n} fake updates" if n else "exact fake score"
            top.plot(steps, curve("distance"), color=colour, lw=1.4, label=label if column == 0 else None)
            bottom.plot(steps, curve("monte_carlo"), color=colour, lw=1.4)
            if n:
                bottom.plot(steps, curve("fake"), color=colour, lw=1.2, ls="--")
        top.set_title(f"({r},{k}) {strategy}", fontsize=10)
        for axes in (top, bottom):
            axes.set_yscale("log")
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
