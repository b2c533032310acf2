"""Sums over variances and rankings."""

from __future__ import annotations

import pytest
import torch

from carv_distill.carv import stream
from studies.attribution_budget.arms import ARMS, BUDGETS
from studies.attribution_budget.draws import QUERIES, Terms, correlations, ecm_over_iid, variances


def test_variances_pool_the_iid_draws_and_add_a_grids_bias() -> None:
    replicates: list[Terms] = []
    for r in range(3):
        terms: Terms = {(arm, k): (2.0 + r) / k for arm in ARMS for k in BUDGETS}
        terms |= {("Strat", k): (1.0 + r / 2) / k**2 for k in BUDGETS}
        terms |= {("bias", k): 0.5 for k in BUDGETS}
        replicates.append(terms)
    found = variances(replicates)
    assert found["iid", 4].value == pytest.approx(3 / 4)
    assert found["fixed grid", 4].value == pytest.approx(3 / 4 + 0.5)
    gains = ecm_over_iid(found)
    assert gains["Strat", 16].value == pytest.approx(32)
    assert gains["Strat", 16].se == pytest.approx(0, abs=1e-9)  # proportional, so paired exactly
    assert ("iid", 4) not in gains


def test_correlations_leave_the_query_out() -> None:
    """The own score of a query is wrong in every ranking, and does not count."""
    g = stream("correlations")
    truth = torch.randn(QUERIES, 20, generator=g)
    seen = truth.clone()
    for q in range(QUERIES):
        seen[q, q] = -9.0
    found = correlations([dict.fromkeys(BUDGETS, seen)] * 2, truth)
    assert all(e.value == pytest.approx(1) for e in found.values())
    noisy = [{k: torch.randn(QUERIES, 20, generator=g) for k in BUDGETS} for _ in range(4)]
    unrelated = correlations(noisy, truth)
    assert all(abs(e.value) < 4 * e.se + 0.05 for e in unrelated.values())
