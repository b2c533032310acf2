"""The figure of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from carv_distill.distillation import traces
from carv_distill.distillation.traces import draw_traces


def row(step: float, fid: bool = False, variance: bool = False) -> dict[str, float]:
    values = {"step": step, "loss/fake": 1.0} | ({"fid/fid": 3.0} if fid else {})
    if variance:
        for arm in ("carv", "iid"):
            for name in ("total", "within"):
                ends = (("", 2.0), ("_low", 1.0), ("_high", 3.0))
                values |= {f"variance/{arm}/{name}{end}": v for end, v in ends}
    return values


@pytest.mark.parametrize(
    ("rows", "drawn"),
    [
        ([row(1), row(2)], []),
        ([row(0, fid=True), row(5, fid=True)], []),  # the start is not shown: no curve
        ([row(5, fid=True, variance=True)], []),
        ([row(5, fid=True), row(6, fid=True)], ["fid.png"]),
        ([row(0, variance=True), row(5, variance=True)], ["variance.png"]),
        ([row(5, fid=True, variance=True), row(6, fid=True)], ["variance_vs_fid.png"]),
    ],
)
def test_a_figure_has_a_curve_and_the_name_of_what_it_shows(
    rows: list[dict[str, float]], drawn: list[str], tmp_path: Path
) -> None:
    draw_traces(rows, tmp_path, "a", "b")
    assert [path.name for path in tmp_path.iterdir()] == drawn
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())


def test_one_figure_takes_the_place_of_another(tmp_path: Path) -> None:
    rows = [row(1, fid=True), row(2, fid=True)]
    draw_traces(rows, tmp_path, "a", "b")
    draw_traces([*rows, row(3, fid=True, variance=True)], tmp_path, "a", "b")
    assert [path.name for path in tmp_path.iterdir()] == ["variance_vs_fid.png"]


@pytest.mark.parametrize("steps", [[1, 2], [2, 4], [3, 4], [0, 50, 400]])
def test_updates_are_whole_numbers(steps: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run of few updates too; each tick in sight is one of them."""
    drawn: list[Figure] = []
    monkeypatch.setattr(traces, "save_figure", lambda figure, path: drawn.append(figure))
    rows = [row(step, fid=True, variance=True) for step in steps]
    draw_traces(rows, tmp_path, "a", "b")
    for axes in drawn[0].axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(tick == round(tick) for tick in ticks)


@pytest.mark.parametrize(("carv", "curves"), [("(8, 1) iid", 1), ("CARV (8, 4) stratified", 2)])
def test_the_baseline_has_no_second_curve(
    carv: str, curves: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(traces, "save_figure", lambda figure, path: drawn.append(figure))
    draw_traces([row(step, variance=True) for step in (1, 2)], tmp_path, carv, "(8, 1) iid")
    assert [len(axes.lines) for axes in drawn[0].axes] == [curves, curves]
    assert [len(legend.get_texts()) for legend in drawn[0].legends] == [curves]
