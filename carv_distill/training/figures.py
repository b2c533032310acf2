"""Pictures of a run, from the rows of its metrics.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.colors import to_hex
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from torch import Tensor

from carv_distill.figures import BLUE, GREY, ORANGE, draw_band, draw_line, new_figure, save_figure

from .metrics import Row, read_metrics


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


def draw_clip(runs: Sequence[Path], path: Path) -> bool:
    """CLIP score over steps, a line for each run with its band over views; False if none was traced."""
    figure = new_figure(3.6)
    axes = figure.add_subplot()
    for run in runs:
        rows = [r for r in read_metrics(run / "metrics.csv") if "clip/score" in r]
        if rows:
            steps = [r["step"] for r in rows]
            (line,) = axes.plot(steps, [r["clip/score"] for r in rows], marker=".", label=run.name)
            low, high = ([r[f"clip/score_{end}"] for r in rows] for end in ("low", "high"))
            draw_band(axes, steps, low, high, to_hex(line.get_color()))
    if not axes.lines:
        return False
    axes.set(xlabel="steps", ylabel="CLIP score (bands: 95 % over views)")
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    save_figure(figure, path)
    return True


def draw_views(objects: Sequence[Tensor], names: Sequence[str], path: Path) -> None:
    """A row of views for each object, [n, 3, S, S] in [0, 1], with its name at the left."""
    side, turns = objects[0].shape[-1], len(objects[0])
    picture = torch.cat([views.clamp(0, 1).permute(2, 0, 3, 1).flatten(1, 2) for views in objects])
    figure = new_figure(0.6 + 6.4 / turns * len(objects))
    axes = figure.subplots()
    axes.imshow(picture.numpy(), interpolation="nearest", aspect="auto")
    axes.set_xlabel("azimuth of the camera")
    axes.set_xticks([(i + 0.5) * side for i in range(turns)], [f"{360 * i // turns}°" for i in range(turns)])
    axes.set_yticks([(i + 0.5) * side for i in range(len(names))], names)
    for i in range(1, len(names)):
        axes.axhline(i * side - 0.5, color="white", lw=2)
    save_figure(figure, path)
