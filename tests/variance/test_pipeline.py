"""Gradients of a pipeline as vectors."""

from __future__ import annotations

import torch

from carv_distill.carv import NoiseLevelSampler, Proposal, stream
from carv_distill.carv.estimator import Residual
from carv_distill.variance import Pipeline, estimate_gradient, under
from carv_distill.variance.pipeline import flat_gradient, row_gradients
from tests.helpers.linear_gaussian import LinearGaussian


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
    assert flat_gradient(x, torch.ones(1, 3), [theta], keep=False).tolist() == [2.0, 2.0, 2.0]
    assert theta.grad is None


def test_a_context_is_around_the_forward_passes_alone() -> None:
    """Under bf16 autocast a linear network's sample is rounded; the draws and the vectors stay float32."""
    linear = torch.nn.Linear(6, 6, bias=False)
    torch.nn.init.eye_(linear.weight)
    seen: list[tuple[bool, torch.dtype]] = []

    def pipeline(count: int, generator: torch.Generator) -> tuple[torch.Tensor, Residual]:
        seen.append((torch.is_autocast_enabled("cpu"), torch.float32))
        x = linear(torch.randn(count, 6, generator=generator))

        def residual(
            x: torch.Tensor, u: torch.Tensor, eps: torch.Tensor, index: torch.Tensor
        ) -> torch.Tensor:
            seen.append((torch.is_autocast_enabled("cpu"), u.dtype))
            return eps

        return x.float(), residual

    mixed: Pipeline = under(pipeline, lambda: torch.autocast("cpu", torch.bfloat16))
    sampler = NoiseLevelSampler(Proposal.uniform())
    gradient = estimate_gradient(mixed, [linear.weight], sampler, 2, 3, stream("a"), stream("b"))
    assert seen == [(True, torch.float32), (True, torch.float32)]
    assert gradient.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")
    exact = estimate_gradient(pipeline, [linear.weight], sampler, 2, 3, stream("a"), stream("b"))
    assert 0 < (gradient - exact).norm() < 0.01 * exact.norm()


def test_without_a_context_nothing_changes() -> None:
    """`under` a context that does nothing gives the same gradient to the bit."""
    model = LinearGaussian()
    theta = model.parameters()
    sampler = NoiseLevelSampler(Proposal.uniform(), "stratified")
    plain = model.pipeline(theta)
    one, other = (
        estimate_gradient(p, [theta], sampler, 4, 3, stream("a"), stream("b"))
        for p in (plain, under(plain, lambda: torch.autocast("cpu", enabled=False)))
    )
    assert torch.equal(one, other)
