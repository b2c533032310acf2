"""The learned multiple of ε."""

from __future__ import annotations

import torch
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, Proposal, stream
from carv_distill.carv.estimator import Residual
from carv_distill.teachers.schedule import VPSchedule
from carv_distill.text_to_3d.guidance.timesteps import TimestepRange, timestep_weight
from studies.gradient import MeasuredGradient
from studies.sds_frontier.coefficient import with_learned_coefficient


def test_a_prediction_that_is_a_multiple_of_the_noise_leaves_nothing() -> None:
    """ε̂ = 0.6 ε at every level: c is 0.6 in every bin with draws, and w (ε̂ − c ε) is zero."""
    levels = TimestepRange.of_shares(VPSchedule(torch.linspace(1e-4, 0.02, 100)), 0.3, 0.34)

    def pipeline(count: int, generator: torch.Generator) -> tuple[Tensor, Residual]:
        def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
            return timestep_weight(levels.sigma(u), "sds").view(-1, 1) * (0.6 * eps - eps)

        return torch.randn(count, 3, generator=generator), residual

    sampler = NoiseLevelSampler(Proposal.uniform())
    gradient = MeasuredGradient(pipeline, [], sampler, 0, 5, lambda timer: None, None)
    learned = with_learned_coefficient(gradient, levels, "sds", stream("learn"))
    u, eps = torch.rand(64, generator=stream("u")), torch.randn(64, 3, generator=stream("eps"))
    x, residual = learned.pipeline(64, stream("x"))
    torch.testing.assert_close(residual(x, u, eps, torch.arange(64)), torch.zeros(64, 3), atol=1e-6, rtol=0)
    _, before = gradient.pipeline(64, stream("x"))
    assert before(x, u, eps, torch.arange(64)).abs().mean() > 0.001
