"""Rank correlation, and the draws that a reliable ranking takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import pytest
import torch
from scipy.stats import spearmanr

from carv_distill.attribution.reliability import Reliability, reliability, spearman
from carv_distill.attribution.scores import GroupProducts
from carv_distill.carv import stream


def test_spearman_is_scipys_with_ties_too() -> None:
    g = stream("ranks")
    a = torch.randint(6, (4, 30), generator=g)
    b = a + torch.randint(6, (4, 30), generator=g)
    expected = [float(spearmanr(x, y).statistic) for x, y in zip(a, b, strict=True)]
    assert torch.allclose(spearman(a, b), torch.tensor(expected, dtype=torch.float64))
    assert spearman(torch.ones(5), torch.arange(5)).isnan()


def test_reliability_predicts_the_agreement_of_more_draws() -> None:
    """Scores μ + noise/√groups for 4,000 samples: the reliability of one group is that of theory,
    1/(1 + s²), within 4 SE (1/√4000), and the prediction for two is what is measured with two."""
    g = stream("reliability")
    mu, noise = torch.randn(4000, generator=g), 1.5 * torch.randn(8, 4000, generator=g)
    known = reliability(lambda keep: (mu + noise[list(keep)].mean(0))[None], 8, 3)
    assert [r.draws for r in known] == [3, 6, 9, 12]
    pearson = 1 / (1 + 1.5**2)
    expected = 6 / math.pi * math.asin(pearson / 2)  # Spearman's correlation of jointly normal scores
    assert abs(known[0].between - expected) < 4 / 4000**0.5
    for r in known[1:]:
        assert abs(known[0].predicted(r.draws).between - r.between) < 0.02
    assert abs(known[0].predicted(12).with_mean - spearman(mu, mu + noise[:4].mean(0))) < 0.02
    assert known[0].needed(known[0].predicted(30).with_mean) == pytest.approx(30)
    assert Reliability(3, -0.1).needed() == math.inf
    assert Reliability(3, -0.1).with_mean == 0


def test_shared_draws_make_naive_rankings_agree_better_than_they_are_right() -> None:
    """300 samples and 4 queries under one noise, more of it on some: the debiased prediction is within
    0.05 of the correlation with the true ranking, the naive one more than 0.2 too high."""
    g = stream("shared")
    mu = torch.randn(304, 30, generator=g, dtype=torch.float64)
    loud = 3 * torch.rand(304, 1, 1, generator=g, dtype=torch.float64)
    noise = torch.randn(1, 8, 30, generator=g, dtype=torch.float64)
    found = mu[:, None] + loud * noise
    products = GroupProducts.of(found[:4], found[4:])
    truth = mu[:4] @ mu[4:].T
    errors = {}
    for debias in (False, True):
        known = reliability(partial(products.inner, debias), 8, 1, 2 if debias else 1)
        right = spearman(products.inner(debias), truth).mean().item()
        errors[debias] = known[-1].predicted(8).with_mean - right
    assert abs(errors[True]) < 0.05
    assert errors[False] > 0.2


def test_many_groups_are_split_at_random() -> None:
    """Of 16 groups every one is in some split of pairs, on either side."""
    seen: list[set[int]] = []

    def score(keep: Sequence[int]) -> torch.Tensor:
        seen.append(set(keep))
        return torch.arange(5.0)[None]

    found = reliability(score, 16, 1, least=2)
    assert [r.draws for r in found] == [2, 3, 4, 5, 6, 7, 8]
    pairs = [s for s in seen if len(s) == 2]
    assert len(pairs) == 70
    assert set().union(*pairs) == set(range(16))
    assert all(not a & b for a, b in zip(seen[::2], seen[1::2], strict=True))


def test_debiased_scores_need_two_groups_on_each_side() -> None:
    found = reliability(lambda keep: torch.arange(5.0)[None], 5, 1, least=2)
    assert [(r.draws, r.between) for r in found] == [(2, 1.0)]
    assert reliability(lambda keep: torch.arange(5.0)[None], 1, 1) == []
