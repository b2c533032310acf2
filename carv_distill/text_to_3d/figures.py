"""CLIP scores and views of objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.colors import to_hex
from torch import Tensor

from carv_distill.engine.metrics import read_metrics
from carv_distill.figures import draw_band, new_figure, save_figure


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
