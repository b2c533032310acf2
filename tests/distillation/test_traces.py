"""The picture of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from carv_distill.distillation.traces import draw_variance_vs_fid
from carv_distill.figures import new_figure, use_whole_numbers


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


@pytest.mark.parametrize("updates", [1, 2, 3, 7, 1100])
def test_ticks_of_updates_are_whole_numbers(updates: int) -> None:
    figure = new_figure()
    axes = figure.add_subplot()
    axes.plot(range(1, updates + 1), range(updates), marker=".")
    use_whole_numbers(axes)
    figure.draw_without_rendering()
    ticks = axes.get_xticks().tolist()
    assert ticks
    assert all(tick == int(tick) for tick in ticks)
    assert any(1 <= tick <= updates for tick in ticks)
