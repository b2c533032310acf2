"""What a sampler is worth, over training samples whose gradients are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, Proposal
from carv_distill.carv.estimator import Residual
from carv_distill.variance import Pipeline
from studies.advisor.attributed import DRAWS, worth


def sample(scale: float, visits: list[float]) -> Pipeline:
    """g = scale · u, of one number: over levels alone."""

    def pipeline(count: int, generator: torch.Generator) -> tuple[Tensor, Residual]:
        visits.append(scale)
        return torch.zeros(count, 1, dtype=torch.float64), lambda x, u, eps, index: scale * u[:, None]

    return pipeline


def test_every_sample_is_visited_once_by_both_halves_of_both_samplers() -> None:
    """K strata leave 1/K² of the variance of K iid draws, whatever the samples' scales."""
    visits: list[float] = []
    scales = [1 + 0.01 * i for i in range(300)]
    strata = NoiseLevelSampler(Proposal.uniform(), "stratified")
    found = worth([sample(s, visits) for s in scales], strata, "here")
    assert sorted(visits) == sorted(4 * scales)
    assert abs(found.value - DRAWS**2) < 4 * found.se
    assert found.se < 0.15 * found.value
    again, other = (worth([sample(s, visits) for s in scales], strata, name) for name in ("here", "there"))
    assert again == found
    assert other.value != pytest.approx(found.value, rel=1e-6)
