"""What is said of a ranking: whose it is, how far it is known, where the formula for more draws misses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from carv_distill.attribution.measure import InfluenceResult
from carv_distill.attribution.ranking.ranking import Ranking
from carv_distill.attribution.ranking.reliability import Reliability
from carv_distill.attribution.ranking.votes import count_votes
from carv_distill.attribution.report import figures
from carv_distill.attribution.report.report import conclusions, influence_dict, influence_table, voted_table
from tests.helpers.attributed import samples, training_set

STEADY = (0.01, -0.01) * 4
FITS = [
    Reliability(2, 0.5, 0.5, tuple(0.5 + d for d in STEADY)),
    Reliability(6, 0.75, 0.6, (0.75,) * 8),
    Reliability(8, 0.8, 0.7),
]
"""2 draws each agree to 0.5, so by the formula 6 agree to 0.75 and 8 to 0.8."""
MISSES = [Reliability(2, 0.3, 0.5, tuple(0.3 + d for d in STEADY)), *FITS[1:]]


def result(
    known: list[Reliability], debias: bool = True, draws: int = 16, student: Path | None = None
) -> InfluenceResult:
    x = torch.zeros(3, 1, 4, 4)
    training = training_set(x, ["0", "1", "2"])
    scores = torch.tensor([[3.0, 1.0, 2.0]], dtype=torch.float64)
    about = {"draws": draws, "groups": 8, "score": "cosine", "debias": debias}
    ranking = Ranking(scores, torch.full_like(scores, 0.25), known, torch.tensor([-1]), about)
    one = samples(x[:1], ["0"])
    return InfluenceResult("the/teacher", training, 9, one, ranking, Path("s.npz"), Path("r/store"), student)


def test_a_ranking_that_can_be_read_is_said_to_be_known() -> None:
    said = conclusions(result(FITS))
    text = " ".join(said)
    assert "each by its own 8 draws, correlate to 0.800" in text
    assert "by 16 draws, should correlate to about 0.943 with the ranking by infinitely many draws" in text
    assert "WARNING" not in text
    assert "keeps an error" not in text
    assert "of 3 of the 9 training samples, each" in text
    assert "Little can be read" not in text


def test_a_formula_that_misses_its_points_is_a_warning_in_text_and_json() -> None:
    """From 0.75 by 6 draws it predicts 0.5 by 2, where 0.3 was measured: halves of 18 draws or of 42
    correlate to 0.9, of whole pairs in each of 8 groups 48 and 96 in all."""
    text = " ".join(conclusions(result(MISSES)))
    assert "WARNING: the formula for more draws (Spearman, Brown 1910) does not fit" in text
    assert "by 6 draws it predicts 0.500 by 2, but 0.300 was measured" in text
    assert "the --draws whose halves correlate to 0.9 go from 48 to 96." in text
    content = json.loads(json.dumps(influence_dict(result(MISSES), 3, []), allow_nan=False))
    assert content["fit"]["misses"] is True
    assert (content["fit"]["measured"], content["fit"]["predicted"]) == (0.3, pytest.approx(0.5))
    assert influence_dict(result(FITS), 3, [])["fit"]["misses"] is False


def test_what_was_not_tested_and_what_cannot_be_read_are_said() -> None:
    assert "was not tested" in conclusions(result(FITS[2:]))[-2]
    assert influence_dict(result(FITS[2:]), 3, [])["fit"] is None
    none = [Reliability(8, -0.1, 0.0)]
    said = " ".join(conclusions(result(none)))  # what a formula makes of it is no prediction
    assert "correlate to -0.100" in said
    assert "should correlate" not in said
    conclusions(result([Reliability(8, -1.0, 0.0)]))  # a pole of the formula
    assert "Little can be read from such a ranking." in " ".join(
        conclusions(result([Reliability(8, 0.2, 0.1)]))
    )
    naive = " ".join(conclusions(result(FITS, debias=False)))
    assert "with the average of many such rankings. That average keeps an error" in naive


def test_of_a_students_run_the_teacher_is_ranked() -> None:
    of_student = result(FITS, student=Path("runs/a/student"))
    assert "3 of the 9 training samples of the teacher the/teacher, by" in str(influence_table(of_student, 2))
    assert "training set of the teacher, the/teacher, by the teacher" in conclusions(of_student)[0]
    assert influence_dict(of_student, 2, [])["student"] == "runs/a/student"
    assert "training samples of the/teacher, by" in str(influence_table(result(FITS), 2))
    assert "teacher's" not in " ".join(conclusions(result(FITS)))


def test_the_picture_says_that_its_curves_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn.append(figure))
    for known in (FITS, MISSES):
        figures.draw_influence(result(known), 2, tmp_path)
    titles = [figure.axes[0].get_title() for figure in drawn[1::2]]
    assert titles[0] == ""
    assert "miss what was measured" in titles[1]


def test_several_queries_have_one_ranking_by_votes() -> None:
    """Of three queries two have the second among their first, and one the third; JSON says the same."""
    one = result([Reliability(8, 0.8, voted=0.75)])
    scores = torch.tensor([[3.0, 4.0, 2.0], [0.0, 2.0, 1.0], [-9.0, -8.0, 0.0]], dtype=torch.float64)
    known = torch.full_like(scores, 0.25)
    ranking = replace(one.ranking, scores=scores, half_width=known, votes=count_votes(scores, 1))
    several = replace(one, ranking=ranking, queries=samples(torch.zeros(3, 1, 4, 4), ["0", "1", "2"]))
    said = str(voted_table(several, 2))
    assert "For all 3 queries, by votes\n" in said
    assert said.index("#1 (1)") < said.index("#2 (2)")
    assert re.search(r"1\. +#1 \(1\) +2 of 3 +-0.667\n2\. +#2 \(2\) +1 of 3 +1\n", said)
    assert "correlate to 0.750" in " ".join(said.split())
    content = influence_dict(several, 2, [])["votes"]
    assert [t["train"] for t in content["top"]] == [1, 2]
    assert (content["each"], content["between"]) == (1, 0.75)
    assert voted_table(one, 2) is None
    assert influence_dict(one, 2, [])["votes"] is None
