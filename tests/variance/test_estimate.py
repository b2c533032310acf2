"""Intervals of means and of ratios."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binomtest

from carv_distill.carv import stream
from carv_distill.variance import (
    Estimate,
    VarianceMeter,
    mean_estimate,
    paired_ratio,
    ratio,
    scaled,
    share_estimate,
)
from carv_distill.variance.estimate import t_quantile


def test_a_mean_has_students_interval() -> None:
    """Of 1, 2, 3, 4: SE √(5/12), t_0.975(3) = 3.18245."""
    e = mean_estimate([1.0, 2.0, 3.0, 4.0])
    assert (e.value, e.se) == (2.5, pytest.approx(math.sqrt(5 / 12)))
    assert e.high - e.value == pytest.approx(3.18245 * e.se, rel=1e-5)
    assert math.isnan(mean_estimate([1.0]).se)
    with pytest.raises(ValueError, match="at least one term"):
        mean_estimate([])


@pytest.mark.parametrize(("hits", "trials"), [(0, 12), (12, 12), (7, 12), (480, 500)])
def test_a_share_has_wilsons_interval(hits: int, trials: int) -> None:
    """As SciPy computes it; it stays in [0, 1], and says something of shares of 0 and 1."""
    e = share_estimate(hits, trials)
    low, high = binomtest(hits, trials).proportion_ci(method="wilson")
    assert (e.value, e.se) == (hits / trials, pytest.approx(math.sqrt(e.value * (1 - e.value) / trials)))
    assert (e.low, e.high) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))
    assert 0 <= e.low < e.high <= 1


def test_a_share_of_no_trials_is_refused() -> None:
    with pytest.raises(ValueError, match="trials must be at least 1"):
        share_estimate(0, 0)


def test_skewed_terms_have_halls_interval() -> None:
    """Its ends solve g(T) = ± t/√n with g(T) = T + γT²/3 + γ²T³/27 + γ/(6n), T = (m̄ − μ)/s, put in again."""
    terms = [0.1, 0.2, 0.2, 0.3, 0.5, 4.0]
    e, n = mean_estimate(terms, skewed=True), len(terms)
    s = e.se * math.sqrt(n)
    t = torch.tensor(terms, dtype=torch.float64) - e.value
    skewness = (t.pow(3).mean() / t.square().mean() ** 1.5).item()
    for end, sign in ((e.low, 1), (e.high, -1)):
        x = (e.value - end) / s
        g = x + skewness * x**2 / 3 + skewness**2 * x**3 / 27 + skewness / (6 * n)
        assert g == pytest.approx(sign * t_quantile(0.975, n - 1) / math.sqrt(n))
    plain = mean_estimate(terms)
    assert e.high - e.value > 2 * (plain.high - plain.value)
    mirrored = mean_estimate([-x for x in terms], skewed=True)
    assert (mirrored.low, mirrored.high) == pytest.approx((-e.high, -e.low))


def test_terms_without_skewness_keep_students_interval() -> None:
    for terms in ([1.0, 2.0, 3.0, 4.0], [5.0, 7.0]):
        skewed, plain = mean_estimate(terms, skewed=True), mean_estimate(terms)
        assert (skewed.low, skewed.high) == pytest.approx((plain.low, plain.high))
    assert mean_estimate([2.0] * 5, skewed=True).high == 2.0


def test_a_positive_mean_of_skewed_terms_stays_positive() -> None:
    """One term of three is all of the mean: the lower end is then that of the logarithmic interval."""
    e = mean_estimate([0.0, 0.0, 3.0], positive=True, skewed=True)
    plain = mean_estimate([0.0, 0.0, 3.0], positive=True)
    assert 0 < e.low <= plain.low
    assert e.high >= plain.high


@pytest.mark.parametrize(
    ("count", "least", "before"), [(16, 0.66, 0.59), pytest.param(*(32, 0.73, 0.61), marks=pytest.mark.slow)]
)
def test_the_variance_of_lognormal_replicates_is_covered_more_often(
    count: int, least: float, before: float
) -> None:
    """In one dimension, kurtosis 114: nominal 95 % that cover 0.72 and 0.80, SE 2 % of 500 repetitions;
    Student's on the logarithm alone `before`. Exactly Gaussian ones are covered in 95 %, SE 1 %."""
    held = {"lognormal": 0, "normal": 0}
    for seed in range(500):
        g = stream("lognormal", count, seed)
        normal = torch.randn(count, 1, generator=g, dtype=torch.float64)
        of = {"lognormal": (normal.exp(), (math.e - 1) * math.e), "normal": (normal, 1.0)}
        for name, (vectors, truth) in of.items():
            meter = VarianceMeter()
            for vector in vectors:
                meter.update(vector)
            e = meter.estimate()
            held[name] += e.low <= truth <= e.high
    assert held["lognormal"] / 500 > least > before
    assert abs(held["normal"] / 500 - 0.95) < 4 * 0.01


def test_a_paired_ratio_covers_and_is_narrower_than_an_unpaired_one() -> None:
    """Terms share most of their spread; 400 repetitions, coverage 95 % within 4 SE (1.1 %)."""
    hits, widths = 0, [0.0, 0.0]
    for seed in range(400):
        g = stream("ratio", seed)
        common = torch.rand(40, generator=g, dtype=torch.float64) * 10
        a = (3 + common + torch.rand(40, generator=g, dtype=torch.float64)).tolist()
        b = (1 + common + torch.rand(40, generator=g, dtype=torch.float64)).tolist()
        paired = paired_ratio(mean_estimate(a), mean_estimate(b))
        unpaired = ratio(mean_estimate(a, positive=True), mean_estimate(b, positive=True))
        hits += paired.low <= 8.5 / 6.5 <= paired.high
        for i, e in enumerate((paired, unpaired)):
            widths[i] += e.high - e.low
    assert abs(hits / 400 - 0.95) < 4 * 0.011
    assert widths[0] < widths[1] / 3


def test_terms_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="found 3 and 2"):
        paired_ratio(mean_estimate([1.0, 2, 3]), mean_estimate([1.0, 2]))
    with pytest.raises(ValueError, match="found 0 and 0"):
        paired_ratio(Estimate(1, 1, 0, 2), Estimate(1, 1, 0, 2))


def test_scaling_scales_everything() -> None:
    e = scaled(mean_estimate([1.0, 3.0]), 2.0)
    assert (e.value, e.terms) == (4.0, (2.0, 6.0))


def test_a_ratio_to_nothing_is_no_number() -> None:
    """A run measures its first student before its fake score has moved at all: that must not end it."""
    nothing = mean_estimate([0.0, 0.0, 0.0])
    found = ratio(mean_estimate([1.0, 2.0, 3.0]), nothing)
    assert all(math.isnan(v) for v in (found.value, found.se, found.low, found.high))
