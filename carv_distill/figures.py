"""The look that all pictures of the package share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    ScalarFormatter,
)

from carv_distill.files import atomic_file

BLUE, ORANGE, GREY, GREEN, RED = "#1f5fa8", "#d9822b", "#6b6b6b", "#3b8a5a", "#a4343a"
PURPLE = "#7a4fa3"
MARKERS = {BLUE: "o", ORANGE: "s", GREY: "^", GREEN: "D", RED: "v", PURPLE: "P"}
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


class LogTicks(LogLocator):
    """Ticks of a logarithmic axis: as many to a decade as there is room for; those of a linear one where
    not two of them are in sight."""

    SHARES = (
        (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
        (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
        (1.0, 2.0, 5.0),
        (1.0, 3.0),
        (1.0,),
    )

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """The places of the ticks, some beyond the ends of the axis."""
        low, high = sorted((vmin, vmax))
        room = min(self.axis.get_tick_space(), 10) if self.axis is not None else 10
        for shares in self.SHARES:
            self.set_params(subs=shares)
            found = super().tick_values(vmin, vmax)
            if 1 < sum(low <= place <= high for place in found) <= room:
                return found
        several = sum(low <= place <= high for place in found) > 1
        return found if several else MaxNLocator(max(room, 2)).tick_values(low, high)


def short_number(value: float) -> str:
    """As 0.02, 300 or 50,000; beyond a million, or below a thousandth, as 5e6."""
    if 1e-3 <= abs(value) < 1e6 or value == 0:
        return f"{value:,g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def use_logarithm(axes: Axes, *names: Literal["x", "y"]) -> None:
    """Makes these axes logarithmic, with ticks as plain numbers."""
    for name in names:
        axes.set(**{f"{name}scale": "log"})
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_major_locator(LogTicks())
        axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG atomically."""
    with atomic_file(path) as file:
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
