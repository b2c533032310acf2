"""Pictures of influence: captions that can be read."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from carv_distill.attribution.measure import InfluenceResult
from carv_distill.attribution.ranking.ranking import Ranking
from carv_distill.attribution.ranking.reliability import Reliability
from carv_distill.attribution.report import figures
from carv_distill.attribution.report.figures import draw_influence, top_figure
from carv_distill.attribution.samples.sets import Samples, TrainingSet
from tests.helpers.attributed import samples, training_set

PROMPTS = (
    "a yellow octahedron, front view",
    "a photograph of an astronaut who rides a horse on the moon, trending, highly detailed, 8k, by nobody",
    "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz",
    r"what $5 and $\bad buy",
    "",
)


def queries_of(words: list[str]) -> Samples:
    return samples(torch.zeros(len(words), 3, 4, 4), words)


def training_of(words: list[str]) -> TrainingSet:
    return training_set(torch.zeros(len(words), 3, 4, 4), words)


@pytest.mark.parametrize(
    ("count", "half"),
    [
        (3, math.nan),
        pytest.param(8, math.nan, marks=pytest.mark.slow),
        pytest.param(8, 1.5e6, marks=pytest.mark.slow),
        pytest.param(20, 1.5e6, marks=pytest.mark.slow),
    ],
)
def test_captions_do_not_overlap(count: int, half: float) -> None:
    """Long prompts side by side and below each other, few and many of them, with errors and without."""
    queries, training = queries_of(list(PROMPTS)), training_of([PROMPTS[i % 5] for i in range(24)])
    scores = torch.linspace(-2e6, 2e6, 5 * 24, dtype=torch.float64).view(5, 24)
    influence = Ranking(scores, torch.full_like(scores, half), [], torch.full((5,), -1))
    figure = top_figure(InfluenceResult("m", training, 999, queries, influence, Path(), Path()), count)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    whole, renderer = figure.bbox, canvas.get_renderer()
    boxes = []
    for axes in figure.axes:
        caption = axes.xaxis.label.get_window_extent(renderer)
        boxes += [axes.get_window_extent(renderer), *([caption] if axes.get_xlabel() else [])]
    for i, box in enumerate(boxes):
        assert whole.x0 <= box.x0
        assert box.x1 <= whole.x1
        assert whole.y0 <= box.y0
        for other in boxes[:i]:
            width = min(box.x1, other.x1) - max(box.x0, other.x0)
            height = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(width, height) <= 0
    assert all(axes.get_window_extent(renderer).width > 40 for axes in figure.axes)


def test_short_captions_hold_the_score_on_their_last_line() -> None:
    queries, training = queries_of(["3"]), training_of(["a red cube, side view", "7"])
    scores = torch.tensor([[99.64, 0.5]], dtype=torch.float64)
    influence = Ranking(scores, torch.full_like(scores, torch.nan), [], torch.tensor([-1]))
    figure = top_figure(InfluenceResult("m", training, 999, queries, influence, Path(), Path()), 2)
    assert [axes.get_xlabel() for axes in figure.axes] == ["#0 (3)", "a red cube,\nside view  99.6", "7  0.5"]


def test_scores_have_their_errors_below_them_and_the_picture_says_what_these_are() -> None:
    queries, training = queries_of(["3"]), training_of(["a red cube, side view", "7"])
    scores = torch.tensor([[99.64, 0.5]], dtype=torch.float64)
    known = Ranking(scores, torch.tensor([[1.25, 0.031]]), [], torch.tensor([-1]))
    figure = top_figure(InfluenceResult("m", training, 999, queries, known, Path(), Path()), 2)
    captions = [axes.get_xlabel() for axes in figure.axes]
    assert captions == ["#0 (3)", "a red cube,\nside view  99.6\n± 1.2", "7  0.500\n± 0.031"]
    below = "its score ± half the 95 % interval over the draws\n2 of the 999 training samples ranked"
    assert figure.get_supxlabel().endswith(below)  # of no groups that could be held against others
    about, agreed = {"draws": 8, "groups": 8, "debias": True}, [Reliability(4, 0.8)]
    known = Ranking(scores, torch.tensor([[1.25, 0.031]]), agreed, torch.tensor([-1]), about)
    figure = top_figure(InfluenceResult("m", training, 999, queries, known, Path(), Path()), 2)
    assert figure.get_supxlabel().endswith("ranked: halves of 4 draws each correlate to 0.800")


def test_a_picture_holds_what_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matplotlib has a largest size; of more queries with more samples the first are shown."""
    monkeypatch.setattr(figures, "LARGEST", 10)
    scores = torch.zeros(20, 30, dtype=torch.float64)
    ranking = Ranking(scores, scores, [], torch.full((20,), -1))
    training, queries = training_of(["x"] * 30), queries_of(["a"] * 20)
    figure = top_figure(InfluenceResult("m", training, 30, queries, ranking, Path(), Path()), 30)
    assert all(7 < inches <= 10 for inches in figure.get_size_inches())
    columns = len([axes for axes in figure.axes if axes.get_title()]) - 1
    rows = len(figure.axes) // (columns + 1)
    said = f"first {rows} of the 20 queries and the first {columns} of the 30 training samples of each"
    assert figure.get_supxlabel().endswith(f"shown are the {said}: a picture holds no more")


@pytest.mark.parametrize(
    ("between", "low", "high"),
    [((0.9, 0.92, 0.94), 0.7, 1.02), ((-0.2, -0.1, -0.05), -0.5, 0.0), ((-0.1, 0.0, 0.1), -0.5, 1.02)],
)
def test_the_axis_of_agreement_holds_the_points_and_their_intervals(
    between: tuple[float, ...], low: float, high: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Close to 1 it does not begin at 0; below 0 nothing is cut off, and no curve is made up."""
    steady = (0.004, -0.004) * 4
    two, four, eight = between
    known = [Reliability(d, b, 0.5, tuple(b + s for s in steady)) for d, b in ((2, two), (4, four))]
    known.append(Reliability(8, eight, 0.5))
    about = {"draws": 16, "groups": 8, "score": "cosine", "debias": True}
    scores = torch.zeros(1, 3, dtype=torch.float64)
    ranking = Ranking(scores, torch.full_like(scores, math.nan), known, torch.tensor([-1]), about)
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn.append(figure))
    result = InfluenceResult("m", training_of(["0"] * 3), 999, queries_of(["0"]), ranking, Path(), Path())
    draw_influence(result, 2, tmp_path)
    (axes,) = drawn[-1].axes
    bottom, top = axes.get_ylim()
    for r in known:
        half = 0.0 if math.isnan(r.half_width()) else r.half_width()
        assert bottom < r.between - half
        assert r.between + half < top
    assert low < bottom
    assert top <= high
    curves = [line for line in axes.lines if line.get_label().startswith(("with the", "of two"))]
    assert len(curves) == (2 if eight > 0 else 0)
    assert all(-1 <= y <= 1 for line in curves for y in line.get_ydata())
