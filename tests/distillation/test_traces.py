"""The picture of a run."""

from __future__ import annotations

from pathlib import Path

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
