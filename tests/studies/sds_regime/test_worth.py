"""What samplers are worth, on a small run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from carv_distill.carv import NoiseLevelSampler, Proposal
from carv_distill.variance import ArmVariance, Comparison, CostModel, Estimate, VarianceBudget, mean_estimate
from studies.sds_regime import worth
from studies.sds_regime.cells import Cell
from studies.sds_regime.figures import draw_worth

SAMPLER = NoiseLevelSampler(Proposal.uniform(), "iid")
SECONDS = {"1,1": 1.0, "1,2": 1.2, "1,4": 1.6, "1,8": 2.4, "1,16": 4.0, "2,1": 1.8}


def made_up(share: float, seed: int) -> Comparison:
    """Of a render's variance 1 and a draw's 20, which strata lower by a share; 40 terms of each."""
    g = torch.Generator().manual_seed(seed)

    def about(value: float) -> Estimate:
        terms = value * (1 + 0.1 * torch.randn(40, generator=g, dtype=torch.float64))
        return mean_estimate(terms.tolist(), positive=True)

    between = about(1.0)
    rows = [
        ArmVariance(arm, 1, k, about(20 / k * (share if arm == "Strat" and k > 1 else 1)), SAMPLER, between)
        for arm in ("uniform", "Strat")
        for k in worth.DRAWS
    ]
    rows = [replace(row, between=replace(between, terms=between.terms[1:])) for row in rows]
    return Comparison(tuple(rows), CostModel.declared(1.0), VarianceBudget(*[between] * 6, 40))


def test_effective_compute_is_variance_times_seconds() -> None:
    """Pooled over states: 21/(1 + 20/K) over the price of K; strata are best, at K = 8."""
    compared = {Cell("a torus", 0, t): made_up(0.5, t) for t in (150, 1000)}
    rows = worth.rows_of(compared, SECONDS)
    for row in rows:
        k = row["draws"]
        share = 0.5 if row["sampler"] == "Strat" and k > 1 else 1
        expected = 21 / (1 + share * 20 / k) / SECONDS[f"1,{k}"]
        assert row["effective_compute"] == pytest.approx(expected, rel=0.1)
        assert row["effective_compute_2"] == pytest.approx(0.9 * row["effective_compute"])
    best = worth.best_of(rows)
    assert (best["sampler"], best["draws"]) == ("Strat", 8)
    assert best["relative_efficiency"] == pytest.approx(3.5 / 2.25, rel=0.1)
    assert len(draw_worth(rows).axes) == 1


@pytest.mark.slow
def test_samplers_on_a_small_run(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Effective compute is relative efficiency over the price; uniform (1, 1) has 1; the best is measured
    anew with other random numbers."""
    monkeypatch.setattr(worth, "DRAWS", (1, 8))
    cell = Cell("a torus", 0, 2)
    compared = {cell: worth.measure(tiny_run.parent, cell, 3)}
    rows = worth.rows_of(compared, SECONDS)
    assert [(row["sampler"], row["draws"]) for row in rows[:2]] == [("uniform", 1), ("uniform", 8)]
    assert rows[0]["effective_compute"] == 1
    base = compared[cell].base.total.value
    for row in rows:
        total = compared[cell].row(row["sampler"], row["draws"]).total.value
        assert row["effective_compute"] == pytest.approx(base / total / SECONDS[f"1,{row['draws']}"])
    (anew,) = worth.confirm_all(tiny_run.parent, [cell], ["IW+Strat"], SECONDS, 3, 1)
    found = worth.confirm(tiny_run.parent, cell, ["IW+Strat"], worth.AT, 3)
    plain, chosen = found[worth.BASE], found["IW+Strat"]
    assert chosen.value != compared[cell].row("IW+Strat", worth.AT).total.value
    assert anew["effective_compute"] == pytest.approx(plain.value / chosen.value / SECONDS["1,8"])
    (beside,) = worth.confirm_all(tiny_run.parent, worth.per_render([cell]), ["IW+Strat"], SECONDS, 3, 1)
    assert beside["effective_compute"] != anew["effective_compute"]
    said = worth.verdict(rows, compared, [anew], [beside])
    assert "(paper 3.3)" in said[3]
    assert "measured anew: IW+Strat" in said[4]
    assert "one picture per render: IW+Strat" in said[5]
    assert len(draw_worth(rows).axes) == 1
