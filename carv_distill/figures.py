"""The look that all pictures of the package share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

from carv_distill.files import atomic_file

BLUE, ORANGE, GREY, GREEN, RED = "#1f5fa8", "#d9822b", "#6b6b6b", "#3b8a5a", "#a4343a"
MARKERS = {BLUE: "o", ORANGE: "s", GREY: "^", GREEN: "D", RED: "v"}
"""Each colour has its own, so that curves are told apart without colours, too."""


def new_figure(height: float = 4.4, width: float = 8) -> Figure:
    """A figure, by default 8 inches wide, 800 pixels in its PNG: the width of a README."""
    return Figure(figsize=(width, height), layout="constrained")


def draw_band(
    axes: Axes, x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str
) -> None:
    """An interval over x."""
    axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def marked(colour: str) -> dict[str, Any]:
    """Marker and size of a curve of that colour, as matplotlib's plot takes them."""
    return {"marker": MARKERS.get(colour, "o"), "markersize": 4}


def draw_line(
    axes: Axes, rows: Sequence[Mapping[str, Any]], x: str, y: str, colour: str, label: str, style: str = "-"
) -> None:
    """The column `y` of rows over their column `x`, with the band between `<y>_low` and `<y>_high`."""
    places = [r[x] for r in rows]
    axes.plot(places, [r[y] for r in rows], style, color=colour, label=label, **marked(colour))
    draw_band(axes, places, [r[f"{y}_low"] for r in rows], [r[f"{y}_high"] for r in rows], colour)


def use_whole_numbers(axes: Axes) -> None:
    """An x axis of updates or other counts: ticks at whole numbers alone, however short the run."""
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def use_powers(axes: Axes, ticks: Sequence[int]) -> None:
    """A logarithmic x axis with these ticks alone, as plain numbers."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG atomically."""
    with atomic_file(path) as file:
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
