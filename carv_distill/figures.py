"""The look that all pictures of the package share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from carv_distill.files import atomic_file

BLUE, ORANGE, GREY, GREEN, RED = "#1f5fa8", "#d9822b", "#6b6b6b", "#3b8a5a", "#a4343a"


def new_figure(height: float = 4.4) -> Figure:
    """A figure 8 inches wide, 800 pixels in its PNG: the width of a README."""
    return Figure(figsize=(8, height), layout="constrained")


def draw_band(
    axes: Axes, x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str
) -> None:
    """An interval over x."""
    axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG atomically."""
    with atomic_file(path) as file:
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
