"""Pictures of a run, from the rows of its metrics.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from carv_distill.engine.metrics import Row
from carv_distill.figures import BLUE, GREY, ORANGE, draw_line, new_figure, save_figure


def draw_variance_vs_fid(rows: Sequence[Row], path: Path, carv: str, iid: str) -> None:
    """Variance of the student's gradient (left axis) and FID (right axis) over student updates.

    Solid: total variance; dashed: the upstream held fixed; bands: 95 % intervals. While one of the two was
    never measured the other is alone, and with neither nothing is drawn.

    Args:
        rows: of metrics.csv.
        carv, iid: how the legend calls the configured estimator and its baseline.
    """
    fid = [(r["step"], r["fid/fid"]) for r in rows if "fid/fid" in r and r["step"] > 0]
    measured = [r for r in rows if "variance/carv/total" in r]
    if not fid and not measured:
        return
    figure = new_figure()
    first = figure.add_subplot()
    drawn = [first]
    if measured:
        for arm, colour, label in (("iid", ORANGE, iid), ("carv", BLUE, carv)):
            draw_line(first, measured, "step", f"variance/{arm}/total", colour, f"{label}: total")
            part = f"{label}: upstream fixed"
            draw_line(first, measured, "step", f"variance/{arm}/within", colour, part, "--")
        first.set(ylabel="variance of the student's gradient (trace)")
    if fid:
        if measured:
            drawn.append(first.twinx())
        drawn[-1].plot(*zip(*fid, strict=True), color=GREY, marker="o", ms=3.5, lw=1.5, label="FID")
        drawn[-1].set(ylabel="FID of the one-step student")
    for axes in drawn:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    first.set(xlabel="student updates")
    first.grid(alpha=0.25)
    handles = [line for axes in drawn for line in axes.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    save_figure(figure, path)
