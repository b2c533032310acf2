"""Rank correlation, and the draws that a reliable ranking takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from scipy.stats import spearmanr

from carv_distill.attribution.ranking.reliability import (
    Reliability,
    check_fit,
    half_width,
    reliability,
    spearman,
)
from carv_distill.attribution.ranking.scores import GroupProducts
from carv_distill.attribution.ranking.votes import count_votes
from carv_distill.carv import stream
from carv_distill.variance.estimate import t_quantile


def test_spearman_is_scipys_with_ties_too() -> None:
    g = stream("ranks")
    a = torch.randint(6, (4, 30), generator=g)
    b = a + torch.randint(6, (4, 30), generator=g)
    expected = [float(spearmanr(x, y).statistic) for x, y in zip(a, b, strict=True)]
    assert torch.allclose(spearman(a, b), torch.tensor(expected, dtype=torch.float64))
    assert spearman(torch.ones(5), torch.arange(5)).isnan()


def test_what_is_left_out_does_not_count() -> None:
    """Four queries, each of which is no candidate of its own, and one that is none at all: scipy's on the
    others, ties and all; so is the agreement of rankings."""
    g = stream("left out")
    a = torch.randint(6, (5, 12), generator=g).double()
    b = a + torch.randint(6, (5, 12), generator=g)
    own = torch.eye(5, 12, dtype=torch.bool)
    own[4] = False
    expected = [float(spearmanr(x[~o], y[~o]).statistic) for x, y, o in zip(a, b, own, strict=True)]
    left = [scores.masked_fill(own, -math.inf) for scores in (a, b)]
    assert torch.allclose(spearman(*left), torch.tensor(expected, dtype=torch.float64))
    (known,) = reliability(lambda keep: left[keep[0]], 2, 3)
    assert known.between == pytest.approx(sum(expected) / 5)


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


@pytest.mark.parametrize(
    ("groups", "least", "joined", "sizes"), [(16, 2, 2, 4), (17, 1, 3, 2), (30, 2, 4, 3)]
)
def test_many_groups_are_joined_to_blocks(groups: int, least: int, joined: int, sizes: int) -> None:
    """At most 8 of equally many groups; all pairs of disjoint sets of blocks are compared, each set once."""
    seen: list[tuple[int, ...]] = []

    def score(keep: Sequence[int]) -> torch.Tensor:
        seen.append(tuple(keep))
        return torch.arange(5.0)[None]

    found = reliability(score, groups, 3, least)
    assert [r.draws for r in found] == [3 * joined * size for size in range(1, sizes + 1)]
    assert len(seen) == len(set(seen)) == sum(math.comb(groups // joined, s) for s in range(1, sizes + 1))
    assert {len(keep) for keep in seen} == {joined * size for size in range(1, sizes + 1)}
    assert all(keep[i + 1] == keep[i] + 1 for keep in seen for i in range(0, len(keep), joined))


def test_orders_by_votes_agree_as_two_that_were_made_apart() -> None:
    """Of halves of four groups: the three pairs, written out."""
    score = scores_of(1.0, 4, 5)
    found = reliability(score, 4, 1, votes=6)[-1]
    apart = []
    for a, b in (([0, 1], [2, 3]), ([0, 2], [1, 3]), ([0, 3], [1, 2])):
        first, second = (count_votes(score(keep), 6).order.argsort() for keep in (a, b))
        apart.append(float(spearmanr(first, second).statistic))
    assert found.voted == pytest.approx(sum(apart) / 3)


def test_intervals_need_enough_groups() -> None:
    g = stream("few groups")
    query, train = torch.randn(1, 2, 7, generator=g), torch.randn(2, 2, 7, generator=g)
    products = GroupProducts.of(query, train)
    assert half_width(partial(products.cosine, True), 2, least=2).isnan().all()
    assert half_width(partial(products.cosine, False), 2).isfinite().all()
    assert half_width(partial(GroupProducts.of(query[:, :1], train[:, :1]).inner, False), 1).isnan().all()


def test_a_costly_score_is_asked_for_fewer_sets() -> None:
    """Of 8 groups 8, 28 and 12 sets: all of the small ones, and six halves with what they leave."""
    seen: list[tuple[int, ...]] = []
    score = scores_of(1.0, 8, 3)

    def counted(keep: Sequence[int]) -> torch.Tensor:
        seen.append(tuple(keep))
        return score(keep)

    found = reliability(counted, 8, 2, costly=True)
    assert len(seen) == len(set(seen)) == 8 + 28 + 12
    full = {r.draws: r for r in reliability(score, 8, 2)}
    assert [r.draws for r in found] == [2, 4, 8]
    assert found[:2] == [full[2], full[4]]
    halves = [keep for keep in seen if len(keep) == 4]
    pairs = [(a, b) for a in halves for b in halves if not set(a) & set(b) and 0 in a]
    assert len(pairs) == 6
    agreement = [spearman(score(a), score(b)).mean().item() for a, b in pairs]
    assert found[2].between == pytest.approx(sum(agreement) / 6)
    assert check_fit(found) is not None


def scores_of(exponent: float, groups: int, seed: int) -> Callable[[Sequence[int]], torch.Tensor]:
    """μ + noise of 3 queries and 60 samples whose variance falls with s groups as s^−exponent."""
    g = stream("fit", seed)
    mu = torch.randn(3, 60, generator=g, dtype=torch.float64)
    noise = 1.5 * torch.randn(groups, 3, 60, generator=g, dtype=torch.float64)
    return lambda keep: mu + noise[list(keep)].mean(0) * len(keep) ** ((1 - exponent) / 2)


@pytest.mark.slow
def test_a_formula_that_fits_is_seldom_said_to_miss() -> None:
    """Noise that falls as 1/K: of 50 rankings at most 17 % are warned of (5 %, nominal, and 4 SE, SE 3.1 %).
    Agreement that grows faster or slower with K is seen in all."""
    share = {}
    for exponent, count in ((0.0, 5), (1.0, 50), (2.0, 5)):
        fits = [check_fit(reliability(scores_of(exponent, 8, i), 8, 2)) for i in range(count)]
        share[exponent] = sum(fit is not None and fit.misses for fit in fits) / count
    assert share[1.0] <= 0.17
    assert share[0.0] == 1
    assert share[2.0] == 1


def test_the_fit_is_a_jackknife_over_the_blocks() -> None:
    """Against the reliability of seven groups at a time, from 8; and the sizes that it compares."""
    score, n = scores_of(1.0, 8, 0), 8
    fit = check_fit(reliability(score, n, 2))
    assert fit is not None
    assert (fit.draws, fit.source) == (2, 6)
    left = []
    for out in range(n):
        rest = [g for g in range(n) if g != out]
        known = reliability(lambda keep, rest=rest: score([rest[i] for i in keep]), n - 1, 2)  # type: ignore[misc]
        left.append(known[0].between - known[2].predicted(2).between)
    se = math.sqrt((n - 1) / n * sum((v - sum(left) / n) ** 2 for v in left))
    assert fit.half_width == pytest.approx(t_quantile(0.975, n - 1) * se)
    known = reliability(score, n, 2)
    assert fit.measured == known[0].between
    assert fit.predicted == known[2].predicted(2).between


@pytest.mark.parametrize(
    ("groups", "least", "tested"), [(4, 1, False), (5, 1, True), (6, 2, False), (7, 2, True)]
)
def test_the_fit_needs_two_sizes_without_some_group(groups: int, least: int, tested: bool) -> None:
    known = reliability(scores_of(1.0, groups, 1), groups, 1, least)
    assert (check_fit(known) is not None) == tested


def test_debiased_scores_need_two_groups_on_each_side() -> None:
    found = reliability(lambda keep: torch.arange(5.0)[None], 5, 1, least=2)
    assert [(r.draws, r.between) for r in found] == [(2, 1.0)]
    assert reliability(lambda keep: torch.arange(5.0)[None], 1, 1) == []


def test_the_agreement_has_an_interval_by_the_jackknife() -> None:
    """se² = (B − 1)/B Σ (w_b − mean)², of 8 values ± 0.01: √7 · 0.01; Student's t of 7 degrees of freedom."""
    known = Reliability(4, 0.5, without=(0.51, 0.49) * 4)
    assert known.half_width() == pytest.approx(2.3646243 * 7**0.5 * 0.01)
    assert math.isnan(Reliability(8, 0.5).half_width())
