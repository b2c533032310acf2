"""The end: how far a ranking agrees with itself, and the command with which it should."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from carv_distill.attribution.measure import InfluenceResult
from carv_distill.attribution.ranking.ranking import Ranking
from carv_distill.attribution.ranking.reliability import Reliability, reliability
from carv_distill.attribution.report.advice import AGREED, agreement, draws_for, repeated, verdict, words_for
from carv_distill.carv import stream
from tests.helpers.attributed import samples, training_set


def result(
    between: float, draws: int = 48, groups: int = 8, seconds: float | None = 300.0, store: str = "r/store"
) -> InfluenceResult:
    x = torch.zeros(3, 1, 4, 4)
    scores = torch.tensor([[3.0, 1.0, 2.0]], dtype=torch.float64)
    about = {"draws": draws, "groups": groups, "score": "cosine", "debias": True}
    known = [Reliability(draws // 2, between)]
    ranking = Ranking(scores, torch.full_like(scores, 0.25), known, torch.tensor([-1]), about)
    training, query = training_set(x), samples(x[:1])
    return InfluenceResult("m", training, 3, query, ranking, Path("s.npz"), Path(store), seconds=seconds)


COMMAND = ["evaluate.py", "influence", "--draws", "48", "--queries", "a b"]


def test_a_ranking_that_agrees_is_said_to() -> None:
    assert verdict(result(0.9), COMMAND) == (
        "The ranking agrees with itself: halves of 24 draws each correlate to 0.900, 0.9 or more."
    )
    found = agreement(result(0.96))
    assert found is not None
    assert found.agrees


def test_below_it_one_line_names_the_draws_and_their_time_and_another_is_the_command() -> None:
    """ρ = 0.8 asks for 0.9 · 0.2/(0.8 · 0.1) = 2.25 times 48 draws, 108; groups of six are even, so the next
    multiple of 16, 112; by 48 in 300 s that takes 700 s."""
    assert verdict(result(0.8), COMMAND) == (
        "The ranking nearly agrees with itself: halves of 24 draws each correlate to 0.800; 0.9 takes about "
        "112 draws, about 12 min here after the pilot:\n"
        "python evaluate.py influence --queries 'a b' --draws 112 --store r/store-112"
    )
    assert "112 draws:\n" in verdict(result(0.8, seconds=None), COMMAND)
    assert verdict(result(0.8, store="my runs/store-48"), COMMAND).endswith("--store 'my runs/store-112'")
    assert "0.899" in verdict(result(0.8994), COMMAND)
    assert "--draws 64 " in verdict(result(0.8994), COMMAND)


def test_one_scale_of_words() -> None:
    found = [words_for(measured) for measured in (0.9, 0.8994, 0.8, 0.7, 0.5, 0.49, -0.1)]
    assert found == ["agrees", *["nearly agrees"] * 2, *["agrees in part"] * 2, *["does not agree"] * 2]


def test_a_command_is_repeated_with_other_options() -> None:
    given = ["/a/evaluate.py", "influence", "--store=x", "--parameters", "a*", "b", "--draws=8", "--top", "3"]
    assert repeated(given, {"--draws": "16", "--store": "y"}) == (
        "python evaluate.py influence --parameters 'a*' b --top 3 --draws 16 --store y"
    )


@pytest.mark.parametrize(
    ("between", "draws", "groups", "wanted"),
    [(0.8, 16, 8, 48), (0.8, 24, 8, 56), (0.5, 48, 8, 432), (0.1, 48, 8, 3888), (0.8, 4, 4, 12)],
)
def test_draws_are_whole_groups(between: float, draws: int, groups: int, wanted: int) -> None:
    """At least 36, 54, 432, 3888 and 9, in multiples of the groups, of twice them where each is even."""
    assert draws_for(Reliability(draws // 2, between), draws, groups, 0.5) == wanted


def test_parts_that_are_no_halves_keep_their_share() -> None:
    """Two of five groups: their draws grow as all do."""
    few = replace(result(0.0, 25, 5).ranking, reliability=[Reliability(10, 0.8)])
    said = verdict(replace(result(0.0, 25, 5), ranking=few), COMMAND)
    assert "parts of 10 draws each correlate to 0.800" in said
    assert "--draws 60 " in said  # 2.25 · 25 = 56.25


def test_where_nothing_agrees_no_number_follows() -> None:
    said = verdict(result(-0.02), COMMAND)
    assert "does not agree" in said
    assert "nothing can be read from it. More --draws, or another" in said
    assert "\n" not in said
    nothing = replace(result(0.5).ranking, reliability=[])
    assert "--groups 8" in verdict(replace(result(0.5), ranking=nothing), COMMAND)
    assert agreement(replace(result(0.5), ranking=nothing)) is None


def test_a_formula_that_misses_makes_it_a_guess() -> None:
    steady = tuple(0.3 + d for d in (0.01, -0.01) * 4)
    known = [Reliability(2, 0.3, 0.5, steady), Reliability(6, 0.75, 0.6, (0.75,) * 8), Reliability(8, 0.8)]
    missed = replace(result(0.0, 16).ranking, reliability=known)
    said = verdict(replace(result(0.0, 16), ranking=missed), COMMAND)
    assert "draws, about 15 min here after the pilot, a guess, as the formula misses (see WARNING):\n" in said


def test_with_the_draws_that_are_named_the_ranking_agrees() -> None:
    """Scores μ + noise/√draws of 4,000 samples: what 16 draws in 8 groups say is enough is, and half of it is
    not, within 4 SE of a correlation (0.19/√4000 = 0.003 each)."""
    g = stream("advice")
    mu = torch.randn(4000, generator=g, dtype=torch.float64)

    def halves(draws: int) -> Reliability:
        noise = 2.5 / math.sqrt(draws // 8) * torch.randn(8, 4000, generator=g, dtype=torch.float64)
        return reliability(lambda keep: (mu + noise[list(keep)].mean(0))[None], 8, draws // 8)[-1]

    now = halves(16)
    assert now.draws == 8
    wanted = draws_for(now, 16, 8, 0.5)
    assert wanted is not None
    assert now.between < 0.6
    assert halves(wanted).between == pytest.approx(AGREED, abs=0.012)
    assert halves(wanted // 32 * 16).between < AGREED - 0.05
