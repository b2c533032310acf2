"""Quadrature against what can be done by hand."""

from __future__ import annotations

import math

import pytest

from carv_distill.carv import NoiseLevelSampler, Proposal, stream
from studies.toy_importance.integrands import EXPONENTIAL, PERIODIC, cosine, exact_variance, measure
from studies.toy_importance.tables import PEAK, proposals

UNIFORM = Proposal.uniform(100)


def test_exact_variances_by_hand() -> None:
    """e^u: E = e − 1, E f² = (e² − 1)/2; cos 2πKu: 1/2 per draw, and a shifted grid of K sees one value."""
    integral = math.e - 1
    assert EXPONENTIAL.integral == pytest.approx(integral, rel=1e-14)
    iid = exact_variance(EXPONENTIAL, UNIFORM, "iid", 5)
    assert iid == pytest.approx(((math.e**2 - 1) / 2 - integral**2) / 5, rel=1e-12)
    # Variance inside stratum k is e^{2k/K} times that inside the first.
    h = 1 / 4
    first = math.expm1(2 * h) / (2 * h) - (math.expm1(h) / h) ** 2
    by_hand = first * sum(math.exp(2 * k * h) for k in range(4)) / 16
    assert exact_variance(EXPONENTIAL, UNIFORM, "stratified", 4) == pytest.approx(by_hand, rel=1e-9)
    # 1/K Σ e^{(k+U)/K} = c e^{U/K}
    c = sum(math.exp(k * h) for k in range(4)) / 4
    assert exact_variance(EXPONENTIAL, UNIFORM, "systematic", 4) == pytest.approx(c**2 * first, rel=1e-10)
    for k in (4, 16):
        assert exact_variance(cosine(k), UNIFORM, "stratified", k) == pytest.approx(0.5 / k, rel=1e-10)
        assert exact_variance(cosine(k), UNIFORM, "systematic", k) == pytest.approx(0.5, rel=1e-10)
    assert exact_variance(PERIODIC, UNIFORM, "systematic", 4) < 1e-28


def test_systematic_quadrature_refuses_importance() -> None:
    with pytest.raises(ValueError, match="uniform proposal only"):
        exact_variance(PEAK, proposals()["oracle"], "systematic", 4)


def test_the_stream_decides_the_numbers() -> None:
    def variance(seed: int) -> float:
        return measure(PEAK, NoiseLevelSampler(UNIFORM, "stratified"), 4, 2000, stream(seed)).variance.value

    assert variance(0) == variance(0) != variance(1)


def test_exact_oracle_variance_is_that_of_the_noise() -> None:
    """q ∝ |f| on 1,000 bins leaves s² I² up to the bins' width, and it is the least of the three."""
    q = proposals()
    exact = {name: exact_variance(PEAK, q[name], "iid", 1) for name in q}
    assert exact["oracle"] == pytest.approx(PEAK.noise**2 * PEAK.integral**2, rel=1e-3)
    assert exact["uniform"] / exact["oracle"] == pytest.approx(4, rel=0.02)
    assert exact["uniform"] / exact["surrogate"] == pytest.approx(2.2, rel=0.02)
    assert exact_variance(PEAK, q["oracle"], "stratified", 16) == pytest.approx(
        exact["oracle"] / 16, rel=1e-3
    )
