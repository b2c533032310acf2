"""What the studies' figures share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from carv_distill.figures import MARKERS, draw_band


def draw_curve(
    axes: Axes,
    rows: pd.DataFrame,
    x: str,
    y: str,
    colour: str,
    label: str | None,
    style: str | None = None,
    lw: float = 1.5,
) -> None:
    """The column `y` over the column `x`, with the band between `<y>_low` and `<y>_high`.

    Args:
        style: marker and line, as "o--"; None is the marker of that colour and a line.
    """
    style = style or f"{MARKERS.get(colour, 'o')}-"
    axes.plot(rows[x], rows[y], style, color=colour, label=label, lw=lw, ms=4)
    draw_band(axes, rows[x].tolist(), rows[f"{y}_low"].tolist(), rows[f"{y}_high"].tolist(), colour)


def draw_curves(axes: Axes, rows: pd.DataFrame, by: str, colours: Mapping[str, str], x: str, y: str) -> None:
    """A curve for each value of the column `by` that has rows with a `y`."""
    for name, colour in colours.items():
        mine = rows[rows[by] == name].dropna(subset=y)
        if len(mine):
            draw_curve(axes, mine, x, y, colour, name)


def plain_numbers(axis: Axis, ticks: Sequence[float]) -> None:
    """These ticks alone, as plain numbers, also on a logarithmic axis."""
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
