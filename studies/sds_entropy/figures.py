"""The regime and its border."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from carv_distill.figures import BLUE, GREEN, GREY, ORANGE, new_figure, use_logarithm
from studies.plots import draw_curve, plain_numbers
from studies.study import Row


def draw_regime(regime: Sequence[Row], quality: Sequence[Row]) -> Figure:
    """Left: W/B over the teacher's spread; middle: effective compute of (1, K); right: the error at equal
    price over that of (4,1)."""
    figure = new_figure(3.4, 9)
    left, middle, right = figure.subplots(1, 3)
    rows = pd.DataFrame(regime)
    draw_curve(left, rows, "spread", "within_over_between", BLUE, "measured")
    left.axhline(10, color=GREY, lw=0.8, ls=":")
    left.set(xscale="log", xlabel="spread of the teacher, s", ylabel="W/B of a single draw")
    plain_numbers(left.xaxis, (0.05, 0.1, 0.2, 0.5, 0.95))
    use_logarithm(left, "y")
    for column, colour in (("ecm_2", GREY), ("ecm_8", BLUE), ("ecm_64", ORANGE)):
        middle.plot(rows.within_over_between, rows[column], ".-", color=colour, label=f"K = {column[4:]}")
    middle.axhline(1, color=GREY, lw=0.8, ls=":")
    middle.set(xlabel="W/B", ylabel="effective compute of (1, K), κ = 4")
    use_logarithm(middle, "x")
    middle.legend(frameon=False, fontsize=8)
    if quality:
        raced = pd.DataFrame(quality)
        for arm, colour in (("(1,16)", BLUE), ("(1,1)", GREEN)):
            draw_curve(right, raced[raced.arm == arm], "spread", "over_4_1", colour, arm)
        right.axhline(1, color=GREY, lw=0.8, ls=":")
        right.set(
            xscale="log",
            yscale="log",
            xlabel="spread of the teacher, s",
            ylabel="error over that of (4,1), equal price",
        )
        plain_numbers(right.xaxis, (0.05, 0.1, 0.2, 0.5, 0.95))
        plain_numbers(right.yaxis, (0.3, 0.5, 0.7, 1, 1.4))
        right.legend(frameon=False, fontsize=8)
    for axes in (left, middle, right):
        axes.grid(alpha=0.25)
    return figure
