"""Rank correlation, and the draws that a reliable ranking takes."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import spearmanr

from carv_distill.attribution import reliability, spearman
from carv_distill.attribution.ranking import Reliability
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
    assert abs(known[0].predicted(12).with_limit - spearman(mu, mu + noise[:4].mean(0))) < 0.02
    assert known[0].needed(known[0].predicted(30).with_limit) == pytest.approx(30)
    assert Reliability(3, -0.1).needed() == math.inf
    assert Reliability(3, -0.1).with_limit == 0


def test_debiased_scores_need_two_groups_on_each_side() -> None:
    found = reliability(lambda keep: torch.arange(5.0)[None], 5, 1, least=2)
    assert [(r.draws, r.between) for r in found] == [(2, 1.0)]
    assert reliability(lambda keep: torch.arange(5.0)[None], 1, 1) == []
