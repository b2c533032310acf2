"""The picture of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from carv_distill.distillation import traces
from carv_distill.distillation.traces import draw_variance_vs_fid


def test_a_figure_is_drawn_once_there_is_something_to_draw(tmp_path: Path) -> None:
    figure = tmp_path / "figures/x.png"
    draw_variance_vs_fid([{"step": 1, "loss/fake": 1.0}], figure, "a", "b")
    assert not figure.exists()
    row = {"step": 5.0, "fid/fid": 3.0}
    draw_variance_vs_fid([row], figure, "a", "b")  # FID alone
    assert figure.read_bytes().startswith(b"\x89PNG")
    figure.unlink()
    for arm in ("carv", "iid"):
        for name in ("total", "within"):
            row |= {f"variance/{arm}/{name}{s}": v for s, v in (("", 2.0), ("_low", 1.0), ("_high", 3.0))}
    draw_variance_vs_fid([row], figure, "a", "b")
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("steps", [[1, 2], [2, 4], [3], [0, 50, 400]])
def test_updates_are_whole_numbers(steps: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run of few updates too; each tick in sight is one of them."""
    drawn: list[Figure] = []
    monkeypatch.setattr(traces, "save_figure", lambda figure, path: drawn.append(figure))
    rows = [{"step": float(step), "fid/fid": 3.0} for step in steps]
    rows += [
        {"step": float(step)}
        | {
            f"variance/{arm}/{name}{end}": 2.0
            for arm in ("carv", "iid")
            for name in ("total", "within")
            for end in ("", "_low", "_high")
        }
        for step in steps
    ]
    draw_variance_vs_fid(rows, tmp_path / "x.png", "a", "b")
    for axes in drawn[0].axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(tick == round(tick) for tick in ticks)
