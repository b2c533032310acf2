"""Noise levels, weights and the SDS residual, on teachers with closed forms."""

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
    average_residual,
)
from carv_distill.teachers.exact import GaussianDenoiser
from carv_distill.teachers.schedule import VPSchedule
from carv_distill.text_to_3d.guidance import Guidance, TimestepRange, clip_norm, sds_residual, timestep_weight

BETAS = DDPMScheduler(100, 0.00085, 0.012, "scaled_linear").betas
SCHEDULE = VPSchedule(BETAS)
DIM = 6
MEAN, VARIANCE = torch.linspace(-1, 1, DIM, dtype=torch.float64), torch.linspace(0.2, 1.5, DIM).double()
TEACHER = GaussianDenoiser(MEAN, VARIANCE)


def test_weights_are_those_of_the_papers() -> None:
    kept = torch.cumprod(1 - BETAS.double(), 0)
    sigma = SCHEDULE.table
    assert torch.allclose(timestep_weight(sigma, "sds"), 1 - kept)
    assert torch.allclose(timestep_weight(sigma, "fantasia3d"), kept.sqrt() * (1 - kept))
    assert torch.equal(timestep_weight(sigma, "uniform"), torch.ones_like(sigma))
    with pytest.raises(ValueError, match="weighting must be one of"):
        timestep_weight(sigma, "none")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_timestep_of_a_range_has_one_bin(dtype: torch.dtype) -> None:
    levels = TimestepRange.of_shares(SCHEDULE, 0.02, 0.98)
    assert (levels.first, levels.last, levels.count) == (2, 98, 97)
    u = (torch.arange(97, dtype=dtype) + 0.5) / 97
    assert torch.equal(levels.sigma(u), SCHEDULE.table[2:99].to(dtype))
    q = levels.proposal("sds", 0.0)
    drawn, weight = q.sample(torch.rand(4000, dtype=torch.float64))
    # ω · w is one constant: the mean of w over the range
    product = weight * timestep_weight(levels.sigma(drawn), "sds")
    assert torch.allclose(product, timestep_weight(levels.levels, "sds").mean().expand_as(product))


def test_a_range_of_one_timestep_is_that_timestep() -> None:
    levels = TimestepRange.of_shares(SCHEDULE, 0.5, 0.5)
    assert levels.count == 1
    assert levels.sigma(torch.rand(5)).unique().numel() == 1


def exact_direction(x: Tensor, levels: TimestepRange, weighting: str) -> Tensor:
    """1/M Σ_t w(t) E_ε[ε̂ − c ε] = 1/M Σ_t w(t) σ_t (x − μ)/(s² + σ_t²), whatever c."""
    sigma = levels.levels[:, None, None]
    w = timestep_weight(sigma, weighting)
    return (w * sigma * (x - MEAN) / (VARIANCE + sigma.square())).mean(0)


@pytest.mark.parametrize("weighting", ["sds", "fantasia3d"])
@pytest.mark.parametrize("by_weight", [False, True])
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_estimator_has_the_exact_mean(
    strategy: str, noise: str, by_weight: bool, weighting: str
) -> None:
    """Mean over all timesteps and all noises; 400 replicates of (2, 4), float64, 4 SE in every coordinate
    (12 coordinates, so a chance of 8e-4 for a false alarm)."""
    levels = TimestepRange.of_shares(SCHEDULE, 0.1, 0.9)
    proposal = levels.proposal(weighting, 0.1) if by_weight else Proposal.uniform(levels.count)
    sampler = NoiseLevelSampler(proposal, strategy, noise)
    g = torch.Generator().manual_seed(7)
    x = torch.randn(2, DIM, generator=g, dtype=torch.float64)

    def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
        return sds_residual(TEACHER, x, levels.sigma(u), eps, None, weighting)[0]

    found = torch.stack(
        [average_residual(residual, x, sampler.draw(2, 4, (DIM,), g, dtype=x.dtype)) for _ in range(400)]
    )
    se = found.std(0) / 400**0.5
    assert ((found.mean(0) - exact_direction(x, levels, weighting)).abs() < 4 * se).all()


def test_a_learned_coefficient_keeps_the_mean_and_takes_the_noise_away() -> None:
    levels = TimestepRange.of_shares(SCHEDULE, 0.5, 0.5)
    teacher = GaussianDenoiser(torch.zeros(DIM).double(), torch.full((DIM,), 0.5).double())
    guidance = Guidance(teacher, levels, "sds", NoiseCoefficient(10, decay=1.0))
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, DIM, generator=g, dtype=torch.float64).expand(64, DIM)
    u = torch.full((64,), 0.5, dtype=torch.float64)
    spread = []
    for step in range(40):
        eps = torch.randn(64, DIM, generator=g, dtype=torch.float64)
        spread.append(guidance.residual(x, u, eps, None, step, observe=True).var(0).sum())
    assert spread[-1] < 0.02 * spread[0]


def test_the_place_of_a_timestep_does_not_move_with_the_range() -> None:
    wide, narrow = (TimestepRange.of_shares(SCHEDULE, 0.1, top) for top in (0.99, 0.49))
    t = 20
    for levels in (wide, narrow):
        for dtype in (torch.float32, torch.float64):
            u = (t - levels.first + torch.tensor([0.01, 0.5, 0.99], dtype=dtype)) / levels.count
            assert levels.place(u).tolist() == [(t + 0.5) / 100] * 3
        assert levels.places[t - levels.first] == (t + 0.5) / 100


def test_only_what_is_too_long_is_clipped() -> None:
    direction = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    assert torch.allclose(clip_norm(direction, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4]]))
    assert torch.equal(clip_norm(torch.zeros(1, 2), 1.0), torch.zeros(1, 2))
