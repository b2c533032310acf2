"""Gradients of a pipeline as vectors."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, Proposal, Upstream, average_residual, stream
from carv_distill.variance import (
    CountSketch,
    Pipeline,
    VarianceBudget,
    VarianceMeter,
    estimate_gradient,
    measure_pairs,
)
from carv_distill.variance.pipeline import flat_gradient, row_gradients
from tests.helpers.linear_gaussian import LinearGaussian

F64 = torch.float64


def test_a_gradient_is_written_where_it_is_wanted() -> None:
    """Into `out`, over the one before; a parameter that is not reached has zeros."""
    theta, unused = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    x = (theta * torch.tensor([1.0, 2.0, 3.0]))[None]
    out = torch.empty(5)
    rows = row_gradients(x, torch.eye(3), [theta, unused], out)
    for i, row in enumerate(rows):
        assert row.data_ptr() == out.data_ptr()
        assert out.tolist() == [float(i + 1) * (j == i) for j in range(3)] + [0.0, 0.0]
    x = (2 * theta)[None]
    assert flat_gradient(x, [theta], torch.ones(1, 3)).tolist() == [2.0, 2.0, 2.0]
    assert theta.grad is None


@dataclass(frozen=True)
class Pushed:
    """x_r = θ + 2 z_r with residual x + ε, push b ζ_r and penalty λ/R Σ_r ‖x_r‖²/2: in dimension d

    g_r = (1 + λ) x_r + ε̄_r + b ζ_r,   E g = (1 + λ) θ,   R V(R, K) = d (4 (1 + λ)² + b² + 1/K).
    """

    b: float = 1.5
    penalty: float = 0.5
    dim: int = 4

    def __call__(self, theta: Tensor) -> Pipeline:
        def pipeline(count: int, generator: torch.Generator) -> Upstream:
            x = theta + 2 * torch.randn(count, self.dim, generator=generator, dtype=F64)
            return Upstream(
                x,
                lambda x, u, eps, index: x + eps,
                lambda g: self.b * torch.randn(count, self.dim, generator=g, dtype=F64),
                self.penalty * x.square().sum() / (2 * count),
            )

        return pipeline

    @property
    def between(self) -> float:
        return self.dim * (4 * (1 + self.penalty) ** 2 + self.b**2)


def test_a_push_and_a_penalty_are_in_the_estimate() -> None:
    """Mean and variance of 4,000 estimates at R = 2, K = 3, 4 SE; pairs split as the closed form says."""
    model, theta = Pushed(), torch.linspace(-1, 1, 4, dtype=F64, requires_grad=True)
    sampler, meter = NoiseLevelSampler(Proposal.uniform(), "iid"), VarianceMeter()
    for i in range(4000):
        streams = (stream("upstream", i), stream("draws", i))
        meter.update(estimate_gradient(model(theta), [theta], sampler, 2, 3, *streams))
    exact = (model.between + model.dim / 3) / 2
    error = (meter.mean - 1.5 * theta.detach()).abs().max()
    assert error < 4 * (exact / model.dim / 4000) ** 0.5
    assert abs(meter.variance - exact) < 4 * meter.estimate().se
    pairs = measure_pairs(model(theta), [theta], sampler, 2, 3, 600)
    for estimate, part in ((pairs.between(), model.between / 2), (pairs.within(), model.dim / 6)):
        assert abs(estimate.value - part) < 4 * estimate.se


@pytest.mark.slow
def test_a_push_and_a_penalty_count_between_upstream_samples() -> None:
    """The budget of 600 upstream samples, 4 SE; levels have no part, and a sketch that keeps coordinates
    apart changes nothing."""
    model, theta = Pushed(), torch.linspace(-1, 1, 4, dtype=F64, requires_grad=True)
    whole, sketched = (
        VarianceBudget.measure(model(theta), [theta], stream("push"), upstreams=600, project=project)
        for project in (None, CountSketch(512))
    )
    for estimate, exact in (
        (whole.between, model.between),
        (whole.within_noise, model.dim),
        (whole.within_level, 0.0),
        (whole.squared_norm, 2.25 * theta.square().sum().item()),
    ):
        assert abs(estimate.value - exact) < 4 * estimate.se
        assert estimate.se < 0.1 * model.between
    assert sketched.between.value == pytest.approx(whole.between.value)
    assert sketched.squared_norm.value == pytest.approx(whole.squared_norm.value)


def test_a_pair_is_an_upstream_sample() -> None:
    model = LinearGaussian()
    theta = model.parameters()
    pair = model.pipeline(theta)
    sampler = NoiseLevelSampler(Proposal.uniform(), "stratified")
    one, other = (
        estimate_gradient(p, [theta], sampler, 4, 3, stream("a"), stream("b"))
        for p in (pair, lambda count, g: Upstream(*pair(count, g)))
    )
    assert torch.equal(one, other)


def test_ranks_share_a_batch() -> None:
    """Two ranks' estimates are those of their own draws, dealt from one shared stream."""
    model = LinearGaussian(between=0)
    theta = model.parameters()
    sampler = NoiseLevelSampler(Proposal.uniform(), "global")
    for rank in range(2):
        gradient = estimate_gradient(
            model.pipeline(theta), [theta], sampler, 3, 2, stream("x"), stream("d", rank),
            rank=rank, world_size=2, shared=stream("shared"),
        )  # fmt: skip
        x, residual, *_ = model.pipeline(theta)(3, stream("x"))
        draws = sampler.draw(3, 2, (6,), stream("d", rank), rank, 2, stream("shared"), F64)
        torch.testing.assert_close(gradient, average_residual(residual, x, draws).mean(0))
