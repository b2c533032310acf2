"""Noise levels of a step and their weights, annealed and learned, on teachers with closed forms."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from carv_distill.carv import (
    AdaptiveProposal,
    StepStatistics,
    average_residual,
    stream,
)
from carv_distill.engine.estimator import observer
from carv_distill.engine.options import EstimatorOptions
from carv_distill.teachers.denoiser import GaussianDenoiser
from carv_distill.teachers.schedule import VPSchedule
from carv_distill.text_to_3d.guidance.residual import sds_residual
from carv_distill.text_to_3d.guidance.timesteps import AnnealedSampler, TimestepRange, timestep_weight
from carv_distill.text_to_3d.options import SDSOptions

BETAS = DDPMScheduler(100, 0.00085, 0.012, "scaled_linear").betas
SCHEDULE = VPSchedule(BETAS)
DIM = 6
F64, STEPS = torch.float64, 3000
OPTIONS = SDSOptions(prompt="a red torus", t_min=0.05, t_max=0.98, t_max_end=0.4)
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


def test_the_place_of_a_timestep_does_not_move_with_the_range() -> None:
    wide, narrow = (TimestepRange.of_shares(SCHEDULE, 0.1, top) for top in (0.99, 0.49))
    t = 20
    for levels in (wide, narrow):
        for dtype in (torch.float32, torch.float64):
            u = (t - levels.first + torch.tensor([0.01, 0.5, 0.99], dtype=dtype)) / levels.count
            assert levels.place(u).tolist() == [(t + 0.5) / 100] * 3
        assert levels.places[t - levels.first] == (t + 0.5) / 100


def alone(rows: Tensor) -> Tensor:
    return rows


@pytest.mark.parametrize("bins", [20, 7])
def test_what_is_learned_of_a_timestep_stays_as_the_range_shrinks(bins: int) -> None:
    """‖r‖ = f(t), constant in each bin of all timesteps. Whether observed in the first range or in the
    last, q(t) = 0.9 f(t)/Σ f + 0.1/M over the M timesteps of every step's range, exactly."""
    f = 1 + torch.rand(bins, generator=stream("f"), dtype=F64)
    of_timestep = f[((torch.arange(100) + 0.5) / 100 * bins).long()]
    for taught_at in (0, 9):
        adaptive = AdaptiveProposal(bins, 0.1, refresh=1)
        annealed = AnnealedSampler(SCHEDULE, EstimatorOptions(1, 1), OPTIONS, 10, adaptive)
        statistics = StepStatistics()
        levels = annealed.range_at(taught_at)
        observe = observer(statistics, adaptive, levels.place)
        assert observe is not None
        u = (torch.arange(levels.count) + 0.5) / levels.count
        t = torch.arange(levels.first, levels.last + 1)
        observe(u, of_timestep[t, None], torch.zeros_like(t))
        statistics.commit(taught_at, alone)
        for step in range(taught_at + 1, 12):
            levels = annealed.range_at(step)
            weights = of_timestep[levels.first : levels.last + 1]
            exact = 0.9 * weights / weights.sum() + 0.1 / levels.count
            torch.testing.assert_close(annealed.sampler_at(step).proposal.mass, exact, rtol=1e-12, atol=0)
    assert (annealed.range_at(0).last, annealed.range_at(9).last) == (98, 40)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "statistic"), [("nested", "neyman"), ("iid", "second_moment")])
def test_the_mean_over_all_timesteps_stays_exact_as_the_range_shrinks(strategy: str, statistic: str) -> None:
    """Each step's estimate less the exact mean of that step's range is a martingale difference: their mean
    over 3,000 steps is 0 within 4 SE in every coordinate (12 of them: 8e-4 for a false alarm)."""
    mean, variance = torch.linspace(-1, 1, DIM, dtype=F64), torch.linspace(0.2, 1.5, DIM, dtype=F64)
    teacher = GaussianDenoiser(mean, variance)
    adaptive = AdaptiveProposal(8, 0.1, statistic, decay=0.9, refresh=1)
    annealed = AnnealedSampler(SCHEDULE, EstimatorOptions(2, 4, strategy), OPTIONS, STEPS, adaptive)
    g = stream("annealed", strategy)
    x = torch.randn(2, DIM, generator=g, dtype=F64)
    errors, statistics = [], StepStatistics()
    for step in range(STEPS):
        levels = annealed.range_at(step)
        drawn = annealed.sampler_at(step).draw(2, 4, (DIM,), g, dtype=F64)

        def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor, at: TimestepRange = levels) -> Tensor:
            return sds_residual(teacher, x, at.sigma(u), eps, None)[0]

        observe = observer(statistics, adaptive, levels.place)
        sigma = levels.levels[:, None, None]
        exact = timestep_weight(sigma, "sds") * sigma * (x - mean) / (variance + sigma.square())
        errors.append(average_residual(residual, x, drawn, observe=observe) - exact.mean(0))
        statistics.commit(step, alone)
    found = torch.stack(errors)
    assert (found.mean(0).abs() < 4 * found.std(0) / STEPS**0.5).all()
    mass = annealed.sampler_at(STEPS).proposal.mass
    assert mass.max() > 1.5 * mass.min()
