"""A pipeline's place: the formula it rests on, and what it says."""

from __future__ import annotations

import pytest

from carv_distill.variance import CostModel, Estimate, VarianceBudget
from carv_distill.variance.regime import Regime


def budget(between: float, within: float, error: float = 0.01) -> VarianceBudget:
    def about(value: float) -> Estimate:
        terms = (value, value + error, value - error)
        return Estimate(value, error, value - 2 * error, value + 2 * error, terms)

    parts = [about(between), about(within / 2), about(within / 2), about(within), about(between + within)]
    return VarianceBudget(*parts, about(1.0), upstreams=32)


@pytest.mark.parametrize(("rho", "kappa"), [(20.0, 4.0), (1.1, 2.2), (50.0, 0.5), (0.1, 0.1)])
def test_the_gain_is_the_greatest_of_the_formula(rho: float, kappa: float) -> None:
    place = Regime.of(budget(1.0, rho), CostModel.declared(kappa), 1)

    def ecm(k: float) -> float:
        return (1 + rho) * (kappa + 1) / ((1 + rho / k) * (kappa + k))

    best = max(range(1, 1000), key=ecm)
    assert place.gain == pytest.approx(ecm(best), rel=1e-12)
    assert place.draws == best
    assert place.within_over_between is not None
    assert place.within_over_between.value == rho


def test_what_it_says() -> None:
    (pays,) = Regime.of(budget(1.0, 20.0), CostModel.declared(4.0), 1).sentences()
    assert "W/B = 20" in pays
    assert "κ = 4 draws. Reuse alone can give 2.5 ×" in pays
    (small,) = Regime.of(budget(1.0, 1.1), CostModel.declared(2.2), 1).sentences()
    assert "not where reuse pays. W/B is what is small" in small
    (cheap,) = Regime.of(budget(1.0, 3.0), CostModel.declared(0.1), 1).sentences()
    assert "κ is what is small" in cheap
    (below,) = Regime.of(budget(1.0, 0.1), CostModel.declared(0.1), 1).sentences()
    assert "Reuse alone can give 1.00 × the gradients of K = 1: it is not where reuse pays" in below
    (unseen,) = Regime.of(budget(0.005, 3.0), CostModel.declared(4.0), 1).sentences()
    assert "not told from 0" in unseen
    (nothing,) = Regime.of(budget(-0.1, 3.0), CostModel.declared(4.0), 1).sentences()
    assert "as many as time allows" in nothing


def test_calls_make_reuse_worth_more_at_few_samples() -> None:
    """ECM at this R with the calls in every gradient: the greatest over K, and κ stays that of one more."""
    rho, cost = 6.0, CostModel(1.5, 1.0, calls=4.0)
    for r in (1, 8):
        place = Regime.of(budget(1.0, rho), cost, r)

        def ecm(k: int, r: int = r) -> float:
            return (1 + rho) * cost(r, 1) / ((1 + rho / k) * cost(r, k))

        best = max(range(1, 1000), key=ecm)
        assert (place.gain, place.draws, place.kappa) == (pytest.approx(ecm(best), rel=1e-12), best, 1.5)
    (said,) = Regime.of(budget(1.0, rho), cost, 1).sentences()
    assert "κ = 1.5 draws, plus 4 that all samples share. At R = 1" in said
    whole = Regime.of(budget(1.0, rho), CostModel(1.5, 1.0, calls=4.0, other=100.0), 8)
    with_all = CostModel(1.5, 1.0, calls=104.0)
    assert whole.whole == pytest.approx(Regime.of(budget(1.0, rho), with_all, 8).gain, rel=1e-12)
    assert f"({whole.whole:.2f} × by an iteration's seconds)" in whole.sentences()[0]
    assert "an iteration's seconds" not in said
    (small,) = Regime.of(budget(1.0, 2.0), CostModel(0.1, 1.0, calls=8.0), 4).sentences()
    assert "W/B is what is small" in small  # 2 is below 0.1 + 8/4
