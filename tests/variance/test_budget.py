"""The variance budget against known components."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from carv_distill.carv import NoiseLevelSampler, Proposal, stream
from carv_distill.variance import CountSketch, Estimate, VarianceBudget, VarianceMeter, estimate_gradient
from tests.helpers.linear_gaussian import LinearGaussian, holds

MODEL = LinearGaussian()
TRUTH = {
    "between": MODEL.between,
    "within_level": MODEL.level,
    "within_noise": MODEL.noise,
    "within": MODEL.level + MODEL.noise,
    "total": MODEL.between + MODEL.level + MODEL.noise,
    "squared_norm": MODEL.parameters().square().sum().item(),
}


def measure(
    seed: int | str,
    upstreams: int = 32,
    levels: int = 4,
    noises: int = 2,
    project: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> VarianceBudget:
    theta = MODEL.parameters()
    pipeline = MODEL.pipeline(theta)
    return VarianceBudget.measure(
        pipeline,
        [theta],
        stream("budget", seed),
        upstreams=upstreams,
        levels=levels,
        noises=noises,
        project=project,
    )


def test_every_component_lies_inside_its_interval() -> None:
    """At one fixed seed and 400 upstream samples; the standard error of each is below 12 % of the total."""
    budget = measure(0, upstreams=400)
    for name, truth in TRUTH.items():
        estimate: Estimate = getattr(budget, name)
        assert holds(estimate, truth), name
        assert estimate.se < 0.12 * TRUTH["total"], name


def coverage(repetitions: int, upstreams: int) -> dict[str, float]:
    hits = dict.fromkeys(TRUTH, 0)
    for seed in range(repetitions):
        budget = measure(seed, upstreams)
        for name, truth in TRUTH.items():
            hits[name] += holds(getattr(budget, name), truth)
    return {name: n / repetitions for name, n in hits.items()}


@pytest.mark.slow
def test_intervals_cover_about_95_percent() -> None:
    """60 repetitions: standard error 2.8 %, bound 4 of them; the slow test looks closer."""
    for name, share in coverage(60, 16).items():
        assert share > 0.95 - 4 * 0.028, name


@pytest.mark.slow
def test_intervals_cover_about_95_percent_closer() -> None:
    """800 repetitions, standard error 0.8 %: within 92.5 … 98 % (squared_norm is conservative by design)."""
    shares = coverage(800, 32)
    for name, share in shares.items():
        assert 0.925 <= share <= (1 if name == "squared_norm" else 0.98), shares


def test_components_are_unbiased() -> None:
    """Means over 60 budgets of 8 samples each against the truth, 4 SE."""
    budgets = [measure(f"bias{seed}", upstreams=8) for seed in range(60)]
    for name, truth in TRUTH.items():
        values = torch.tensor([getattr(b, name).value for b in budgets], dtype=torch.float64)
        se = values.std().item() / math.sqrt(len(values))
        assert abs(values.mean().item() - truth) < 4 * se, name


def test_prediction_agrees_with_a_measured_variance() -> None:
    """V(2, 4) predicted from single draws against 3,000 replicates of the whole estimator, 4 SE."""
    theta = MODEL.parameters()
    pipeline, sampler = MODEL.pipeline(theta), NoiseLevelSampler(Proposal.uniform(), "iid")
    g, meter = stream("prediction"), VarianceMeter()
    for _ in range(3000):
        meter.update(estimate_gradient(pipeline, [theta], sampler, 2, 4, g, g))
    truth = (MODEL.between + (MODEL.level + MODEL.noise) / 4) / 2
    measured = meter.estimate()
    assert abs(measured.value - truth) < 4 * measured.se
    predicted = measure(1, upstreams=400).variance(2, 4)
    assert predicted == pytest.approx(truth, rel=0.15)


def test_importance_weights_enter() -> None:
    """Under q the weighted draws have the same mean; the level component is that of ω(u) r."""
    theta = MODEL.parameters()
    proposal = Proposal.from_weights(torch.tensor([1.0, 3.0, 1.0, 1.0]), defensive=0.2)
    budget = VarianceBudget.measure(
        MODEL.pipeline(theta), [theta], stream("weights"), proposal, upstreams=300, levels=4, noises=2
    )
    second = (proposal.mass * (1 / (4 * proposal.mass)).square()).sum().item()  # E_q ω²
    assert abs(budget.within_noise.value - MODEL.noise * second) < 4 * budget.within_noise.se
    assert abs(budget.squared_norm.value - TRUTH["squared_norm"]) < 4 * budget.squared_norm.se


def test_a_sketch_keeps_the_components() -> None:
    """The same draws through 4,096 buckets; hashing six coordinates without collision changes only signs."""
    plain, sketched = measure(3), measure(3, project=CountSketch(4096, seed=1))
    for name in TRUTH:
        assert getattr(sketched, name).value == pytest.approx(getattr(plain, name).value, rel=1e-9)


def test_a_part_of_the_parameters_can_be_looked_at_alone() -> None:
    """Two halves, x = (a, b): the budget of one half is half of the components."""
    theta = MODEL.parameters()
    a, b = (part.detach().requires_grad_() for part in theta.chunk(2))
    pipeline = lambda n, g: MODEL.pipeline(torch.cat([a, b]))(n, g)  # noqa: E731
    budget = VarianceBudget.measure(pipeline, [a], stream("half"), upstreams=200)
    assert abs(budget.total.value - TRUTH["total"] / 2) < 4 * budget.total.se
    assert a.grad is None


@pytest.mark.parametrize("few", ["upstreams", "levels", "noises"])
def test_fewer_than_two_replicates_are_refused(few: str) -> None:
    with pytest.raises(ValueError, match=f"{few} must be at least 2, found 1"):
        measure(0, **{few: 1})


@pytest.mark.parametrize(("upstream", "draws"), [(0, 1), (1, 0), (-1, 2)])
def test_a_variance_of_no_draws_is_refused(upstream: int, draws: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        measure(0, upstreams=2).variance(upstream, draws)
