"""The SDS residual, on teachers with closed forms."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from carv_distill.carv import (
    NOISES,
    STRATEGIES,
    NoiseCoefficient,
    NoiseLevelSampler,
    Proposal,
    StepStatistics,
    average_residual,
)
from carv_distill.teachers.denoiser import GaussianDenoiser
from carv_distill.teachers.schedule import VPSchedule
from carv_distill.text_to_3d.guidance.residual import clip_norm, guided_residual, sds_residual
from carv_distill.text_to_3d.guidance.timesteps import TimestepRange, timestep_weight

SCHEDULE = VPSchedule(DDPMScheduler(100, 0.00085, 0.012, "scaled_linear").betas)
DIM = 6
MEAN, VARIANCE = torch.linspace(-1, 1, DIM, dtype=torch.float64), torch.linspace(0.2, 1.5, DIM).double()
TEACHER = GaussianDenoiser(MEAN, VARIANCE)


def exact_direction(x: Tensor, levels: TimestepRange, weighting: str) -> Tensor:
    """1/M Σ_t w(t) E_ε[ε̂ − c ε] = 1/M Σ_t w(t) σ_t (x − μ)/(s² + σ_t²), whatever c."""
    sigma = levels.levels[:, None, None]
    w = timestep_weight(sigma, weighting)
    return (w * sigma * (x - MEAN) / (VARIANCE + sigma.square())).mean(0)


@pytest.mark.parametrize("weighting", [pytest.param("sds", marks=pytest.mark.slow), "fantasia3d"])
@pytest.mark.parametrize("by_weight", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_estimator_has_the_exact_mean(
    strategy: str, noise: str, by_weight: bool, weighting: str
) -> None:
    """Mean over all timesteps and all noises; 250 replicates of (2, 4), float64, 4 SE in every coordinate
    (12 coordinates, so a chance of 8e-4 for a false alarm)."""
    levels = TimestepRange.of_shares(SCHEDULE, 0.1, 0.9)
    proposal = levels.proposal(weighting, 0.1) if by_weight else Proposal.uniform(levels.count)
    sampler = NoiseLevelSampler(proposal, strategy, noise)
    g = torch.Generator().manual_seed(7)
    x = torch.randn(2, DIM, generator=g, dtype=torch.float64)

    def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
        return sds_residual(TEACHER, x, levels.sigma(u), eps, None, weighting)[0]

    found = torch.stack(
        [average_residual(residual, x, sampler.draw(2, 4, (DIM,), g, dtype=x.dtype)) for _ in range(250)]
    )
    se = found.std(0) / 250**0.5
    assert ((found.mean(0) - exact_direction(x, levels, weighting)).abs() < 4 * se).all()


def test_a_learned_coefficient_keeps_the_mean_and_takes_the_noise_away() -> None:
    levels = TimestepRange.of_shares(SCHEDULE, 0.5, 0.5)
    teacher = GaussianDenoiser(torch.zeros(DIM).double(), torch.full((DIM,), 0.5).double())
    statistics = StepStatistics()
    coefficient, cond, rows = NoiseCoefficient(10, decay=1.0), torch.zeros(1, 1, 1), torch.zeros(64).long()
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, DIM, generator=g, dtype=torch.float64).expand(64, DIM)
    u = torch.full((64,), 0.5, dtype=torch.float64)
    spread = []
    for step in range(40):
        eps = torch.randn(64, DIM, generator=g, dtype=torch.float64)
        residual = guided_residual(teacher, levels, "sds", cond, step, coefficient, statistics)
        spread.append(residual(x, u, eps, rows).var(0).sum())
        statistics.commit(step, lambda rows: rows)
    assert spread[-1] < 0.02 * spread[0]


def test_only_what_is_too_long_is_clipped() -> None:
    direction = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    assert torch.allclose(clip_norm(direction, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4]]))
    assert torch.equal(clip_norm(torch.zeros(1, 2), 1.0), torch.zeros(1, 2))
