"""Samplers side by side, on a pipeline whose variances are known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from carv_distill.carv import NoiseLevelSampler, Proposal, stream
from carv_distill.commands.variance_figures import draw_analysis, ecm_frontier
from carv_distill.variance import (
    Advice,
    Arm,
    Comparison,
    CostModel,
    NoiseLevelProfile,
    VarianceBudget,
    compare,
    measure_pairs,
    standard_arms,
)
from tests.helpers.linear_gaussian import LinearGaussian

MODEL = LinearGaussian(between=2, level=6, noise=4)
UNIFORM = Proposal.uniform()


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    theta = MODEL.parameters()
    pipeline = MODEL.pipeline(theta)
    budget = VarianceBudget.measure(pipeline, [theta], stream("b"), upstreams=64)
    arms = [Arm("uniform", NoiseLevelSampler(UNIFORM, "iid")), Arm("Strat", NoiseLevelSampler(UNIFORM))]
    return compare(pipeline, [theta], arms, 2, (4, 1), 300, CostModel(3.0, 0.5, 1.0, 20.0), budget)


def within(arm: str, draws: int) -> float:
    """Exact variance of one sample's K-draw average with the upstream fixed."""
    if arm == "uniform":
        return (MODEL.level + MODEL.noise) / draws
    edges = torch.linspace(0, 2 * math.pi, draws + 1, dtype=torch.float64)
    # stratum means of √2 sin(2πu); what is left of E h² = 1 inside the strata
    means = math.sqrt(2) * draws / (2 * math.pi) * (edges[:-1].cos() - edges[1:].cos())
    inside = 1 - means.square().mean().item()
    return (MODEL.level * inside + MODEL.noise) / draws


@pytest.mark.parametrize("arm", ["uniform", "Strat"])
@pytest.mark.parametrize("draws", [1, 4])
def test_variances_agree_with_the_closed_form(comparison: Comparison, arm: str, draws: int) -> None:
    """R = 2, 300 pairs, 4 SE."""
    row = comparison.row(arm, draws)
    exact = within(arm, draws) / 2
    assert abs(row.within.value - exact) < 4 * row.within.se
    assert abs(row.between.value - MODEL.between / 2) < 4 * row.between.se
    assert abs(row.total.value - exact - MODEL.between / 2) < 4 * row.total.se
    assert row.total.value == pytest.approx(row.between.value + row.within.value, rel=1e-12)


def test_re_and_ecm_agree_with_the_closed_form(comparison: Comparison) -> None:
    """RE and ECM of (2, 4) stratified, with and without the other costs, 4 SE; the first row is 1."""
    row = comparison.row("Strat", 4)
    total = {(a, k): MODEL.between + within(a, k) for a in ("uniform", "Strat") for k in (1, 4)}
    re = comparison.relative_efficiency(row)
    assert abs(re.value - total["uniform", 4] / total["Strat", 4]) < 4 * re.se
    gain = total["uniform", 1] / total["Strat", 4]
    for whole, costs in ((False, 9.0 / 12.0), (True, 29.0 / 32.0)):
        found = comparison.ecm(row, whole)
        assert abs(found.value - gain * costs) < 4 * found.se
        assert found.se < 0.1 * found.value
    assert comparison.ecm(comparison.base).value == 1
    assert comparison.base is comparison.rows[0]
    assert comparison.base.draws == 1


def test_advice_uses_what_was_measured(comparison: Comparison) -> None:
    """With other costs of 20 and a budget of 100, strata want no fewer samples than the budget pays for."""
    advice = comparison.advice("Strat", max_cost=100.0)
    assert advice.cost <= 100
    assert comparison.cost(advice.upstream + 1, advice.draws) > 100
    assert advice.baseline == (2, 1)
    assert advice.ecm > comparison.advice("uniform", max_cost=100.0).ecm


def test_figures_are_drawn(comparison: Comparison, tmp_path: Path) -> None:
    theta = MODEL.parameters()
    profile = NoiseLevelProfile.measure(MODEL.pipeline(theta), [theta], stream("p"), 8, 4)
    proposals = {"importance": profile.importance(), "Neyman": profile.neyman()}
    for path in draw_analysis(comparison, profile, proposals, tmp_path):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_no_iid_draws_pass_the_bound_of_the_figure(comparison: Comparison) -> None:
    """At this R, with what calls take whatever their size: the ECM of the best K, by the model."""
    costs = CostModel(1.0, 1.0, calls=40.0)
    c = replace(comparison, cost=costs)
    (bound,) = (line for line in ecm_frontier(c).axes[0].lines if "bound" in str(line.get_label()))
    base, r = c.base, c.base.upstream
    between, within = base.between.value, base.within.value * base.draws

    def ecm(k: int) -> float:
        paid = costs(r, base.draws) / costs(r, k)
        return (between + within / base.draws) / (between + within / k) * paid

    assert float(np.asarray(bound.get_ydata())[0]) == pytest.approx(max(map(ecm, range(1, 200))), rel=1e-9)


def test_antithetic_noise_is_advised_with_an_even_k(comparison: Comparison) -> None:
    """An odd K between the measured 4 and 6 may look best, but has a draw without a partner."""
    theta = MODEL.parameters()
    sampler = NoiseLevelSampler(UNIFORM, "stratified", "antithetic")
    arms = [Arm("uniform", NoiseLevelSampler(UNIFORM, "iid")), Arm("best", sampler)]
    c = compare(MODEL.pipeline(theta), [theta], arms, 1, (2, 4, 6), 20, CostModel(9, 1), comparison.budget)
    assert [r.sampler.noise for r in c.rows[::3]] == ["iid", "antithetic"]
    for most in (3, 5, 7):
        assert c.advice("best", 64.0, max_draws=most).draws % 2 == 0
    assert c.advice("uniform", 64.0, max_draws=2).draws == 2  # nothing below what was measured


def test_what_is_spread_over_the_batch_is_known_from_the_measured_r_on(comparison: Comparison) -> None:
    """Nested strata at R = 1 are less than a fourth as good as at R = 4: such an R is neither predicted nor
    advised; nor, of any sampler, where the upstream samples are spread."""
    theta = MODEL.parameters()
    arms = [
        Arm("uniform", NoiseLevelSampler(UNIFORM, "iid")),
        Arm("best", NoiseLevelSampler(UNIFORM, "nested")),
    ]
    costs = CostModel(50.0, 1.0)  # a sample is dear: many draws of one pay
    c = compare(MODEL.pipeline(theta), [theta], arms, 4, (1, 2), 8, costs, comparison.budget)
    spent = costs(4, 2)
    assert c.advice("uniform", spent).upstream < 4
    assert c.advice("best", spent).upstream == 4
    with pytest.raises(ValueError, match="R = 3 is below the smallest one measured, 4"):
        c.within_model("best").variance(3, 2)
    with pytest.raises(ValueError, match="does not pay for R = 4, K = 1"):
        c.advice("best", costs(4, 1) - 1)
    spread = replace(c, spread=True)
    assert spread.advice("uniform", spent).upstream == 4
    assert c.advice("best").upstream == 4  # the least, without a budget


def test_no_between_variance_is_drawn_too(tmp_path: Path) -> None:
    """Few pairs and no variance between samples: its estimate falls below zero; a K above 1 is the base."""
    model = LinearGaussian(between=0, level=2, noise=5)
    theta = model.parameters()
    arms = [Arm("uniform", NoiseLevelSampler(UNIFORM, "iid"))]
    budget = VarianceBudget.measure(model.pipeline(theta), [theta], stream("b"), upstreams=3)
    profile = NoiseLevelProfile.measure(model.pipeline(theta), [theta], stream("p"), 4, 3)
    c = next(
        found
        for seed in range(20)
        for found in [
            compare(model.pipeline(theta), [theta], arms, 2, (2, 4), 4, CostModel(3, 1), budget, seed)
        ]
        if found.base.between.value < 0
    )
    assert all(path.is_file() for path in draw_analysis(c, profile, {}, tmp_path))


def test_the_standard_arms_are_the_papers_and_ours() -> None:
    q = Proposal.from_weights(torch.tensor([1.0, 2.0]))
    arms = {a.name: a.sampler for a in standard_arms(q, q, "antithetic")}
    assert list(arms) == ["uniform", "IW", "Strat", "IW+Strat", "best"]
    assert (arms["best"].strategy, arms["best"].noise) == ("nested", "antithetic")


def test_too_little_is_refused() -> None:
    theta = MODEL.parameters()
    with pytest.raises(ValueError, match="pairs must be at least 2, found 1"):
        measure_pairs(MODEL.pipeline(theta), [theta], NoiseLevelSampler(UNIFORM), 1, 1, 1)
    with pytest.raises(ValueError, match="at least one arm and one K"):
        compare(MODEL.pipeline(theta), [theta], [], 1, (1,), 3, CostModel.declared(1), None)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_predicted_ecm_has_an_interval_that_holds_the_truth() -> None:
    """Strata at (3, 4) against uniform (2, 1), 12 pairs: nominal 95 % of 100 repetitions, SE 2.2 %. The
    jackknife's logarithm is of skewed terms, so that a few per cent less are covered."""
    theta = MODEL.parameters()
    pipeline, cost = MODEL.pipeline(theta), CostModel(3.0, 0.5, 1.0, 20.0)
    budget = VarianceBudget.measure(pipeline, [theta], stream("b"), upstreams=3)
    arms = [Arm("uniform", NoiseLevelSampler(UNIFORM, "iid")), Arm("Strat", NoiseLevelSampler(UNIFORM))]

    def variance(arm: str, upstream: int, draws: int) -> float:
        return (MODEL.between + within(arm, draws)) / upstream

    truth = variance("uniform", 2, 1) * cost(2, 1) / (variance("Strat", 3, 4) * cost(3, 4))
    held = 0
    for seed in range(100):
        c = compare(pipeline, [theta], arms, 2, (1, 4), 12, cost, budget, seed)
        own = c.within_model("Strat").variance(3, 4) * cost(3, 4)
        base = c.within_model("uniform").variance(2, 1) * cost(2, 1)
        advice = Advice(3, 4, own / cost(3, 4), cost(3, 4), base / own, (2, 1))
        e = c.predicted("Strat", advice)
        assert e.low < e.value < e.high
        assert e.value == base / own
        held += e.low <= truth <= e.high
    assert held / 100 > 0.95 - 4 * 0.022


def test_a_predicted_ecm_at_what_was_measured_is_the_paired_ratio(comparison: Comparison) -> None:
    """At a measured (R, K) the jackknife of the model is that of the totals."""
    row, c = comparison.row("Strat", 4), comparison
    own = c.within_model("Strat").variance(2, 4) * c.cost(2, 4)
    base = c.within_model("uniform").variance(2, 1) * c.cost(2, 1)
    e = c.predicted("Strat", Advice(2, 4, own / c.cost(2, 4), c.cost(2, 4), base / own, (2, 1)))
    measured = c.ecm(row, whole_iteration=True)
    assert e.value == pytest.approx(measured.value, rel=1e-6)
    assert (e.low, e.high) == (pytest.approx(measured.low, rel=0.01), pytest.approx(measured.high, rel=0.01))
