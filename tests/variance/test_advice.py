"""Integer (R, K) under a budget."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import pytest

from carv_distill.variance import CostModel, MeasuredWithin, advise


@dataclass(frozen=True)
class Components:
    between: float
    within: float

    def variance(self, upstream: int, draws: int) -> float:
        return (self.between + self.within / draws) / upstream


def test_advice_is_the_best_of_all_integers() -> None:
    for between, kappa, other, limit in itertools.product((0.1, 1), (0.5, 8), (0, 30), (50.0, 200.0)):
        model, cost = Components(between, 10.0), CostModel(kappa, 1.0, 0.0, other, calls=3.0)
        found = advise(model, cost, max_cost=limit)
        assert found.cost <= limit
        best = min(
            model.variance(r, k) * cost(r, k)
            for r, k in itertools.product(range(1, 401), range(1, 65))
            if cost(r, k) <= limit
        )
        assert found.variance * found.cost == pytest.approx(best, rel=1e-12)
        assert found.ecm == pytest.approx(model.variance(1, 1) * cost(1, 1) / best, rel=1e-12)


def test_without_other_costs_one_sample_is_advised() -> None:
    """K* = √(8 · 18/1) = 12."""
    found = advise(Components(1.0, 18.0), CostModel.declared(8.0), baseline=(2, 1))
    assert (found.upstream, found.draws) == (1, 12)
    assert found.ecm == pytest.approx(19 * 9 / (2.5 * 20))
    assert found.baseline == (2, 1)


def test_other_costs_need_a_budget_and_make_draws_nearly_free() -> None:
    cost = CostModel(1.0, 1.0, other=100.0)
    with pytest.raises(ValueError, match="max_cost is needed"):
        advise(Components(1.0, 1.0), CostModel(1.0, 1.0, calls=1.0))
    with pytest.raises(ValueError, match="max_cost is needed"):
        advise(Components(1.0, 1.0), cost)
    with pytest.raises(ValueError, match="does not pay"):
        advise(Components(1.0, 1.0), cost, max_cost=50)


def test_what_costs_exactly_the_budget_is_allowed() -> None:
    """The run's own (R, K) at its own cost, 2000 random cases: nothing worse is ever advised."""
    g = random.Random(0)
    for _ in range(2000):
        cost = CostModel(*(g.uniform(0.01, 2) for _ in range(5)))
        r, k = g.randint(1, 64), g.randint(1, 64)
        model = Components(g.uniform(0, 2), g.uniform(0.1, 20))
        found = advise(model, cost, max_cost=cost(r, k), draws=[k])
        assert (found.upstream, found.draws) == (r, k)


def test_measured_within_is_a_power_law_between_and_iid_beyond() -> None:
    model = MeasuredWithin(1.0, {1: 8.0, 4: 0.5})
    assert model.variance(1, 2) == pytest.approx(1 + 2.0)
    assert model.variance(2, 4) == pytest.approx(0.75)
    assert model.variance(1, 8) == pytest.approx(1.25)
    with pytest.raises(ValueError, match="K = 1 is below the smallest one measured, 2"):
        MeasuredWithin(1.0, {2: 3.0}).variance(1, 1)


@pytest.mark.parametrize("within", [{}, {0: 1.0}, {2: -1.0}, {2: float("nan")}])
def test_impossible_measurements_are_refused(within: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="within"):
        MeasuredWithin(1.0, within)
