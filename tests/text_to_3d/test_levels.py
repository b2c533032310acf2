"""The sampler of every step: what is learned stays with its timesteps as their range shrinks."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from carv_distill.carv import AdaptiveProposal, Lessons, average_residual, stream
from carv_distill.teachers.exact import GaussianDenoiser
from carv_distill.teachers.schedule import VPSchedule
from carv_distill.text_to_3d.guidance import TimestepRange, sds_residual, timestep_weight
from carv_distill.text_to_3d.levels import AnnealedSampler, Estimator
from carv_distill.text_to_3d.options import SDSOptions

F64 = torch.float64
TIMESTEPS, DIM, STEPS = 100, 6, 3000
SCHEDULE = VPSchedule(DDPMScheduler(TIMESTEPS, 0.00085, 0.012, "scaled_linear").betas)
OPTIONS = SDSOptions(prompt="a red torus", t_min=0.05, t_max=0.98, t_max_end=0.4)


def alone(rows: Tensor) -> Tensor:
    return rows


@pytest.mark.parametrize("bins", [20, 7])
def test_what_is_learned_of_a_timestep_stays_as_the_range_shrinks(bins: int) -> None:
    """‖r‖ = f(t), constant in each bin of all timesteps. Whether observed in the first range or in the
    last, q(t) = 0.9 f(t)/Σ f + 0.1/M over the M timesteps of every step's range, exactly."""
    f = 1 + torch.rand(bins, generator=stream("f"), dtype=F64)
    of_timestep = f[((torch.arange(TIMESTEPS) + 0.5) / TIMESTEPS * bins).long()]
    for taught_at in (0, 9):
        adaptive = AdaptiveProposal(bins, 0.1, refresh=1)
        annealed = AnnealedSampler(SCHEDULE, Estimator(1, 1), OPTIONS, 10, adaptive)
        lessons = Lessons()
        levels, observe = annealed.levels(taught_at), annealed.observer(taught_at, lessons)
        assert observe is not None
        u = (torch.arange(levels.count) + 0.5) / levels.count
        t = torch.arange(levels.first, levels.last + 1)
        observe(u, of_timestep[t, None], torch.zeros_like(t))
        lessons.teach(taught_at, alone)
        for step in range(taught_at + 1, 12):
            levels = annealed.levels(step)
            weights = of_timestep[levels.first : levels.last + 1]
            exact = 0.9 * weights / weights.sum() + 0.1 / levels.count
            torch.testing.assert_close(annealed.at(step).proposal.mass, exact, rtol=1e-12, atol=0)
    assert (annealed.levels(0).last, annealed.levels(9).last) == (98, 40)


@pytest.mark.parametrize(("strategy", "statistic"), [("iid", "second_moment"), ("nested", "neyman")])
def test_the_mean_over_all_timesteps_stays_exact_as_the_range_shrinks(strategy: str, statistic: str) -> None:
    """Each step's estimate less the exact mean of that step's range is a martingale difference: their mean
    over 3,000 steps is 0 within 4 SE in every coordinate (12 of them: 8e-4 for a false alarm)."""
    mean, variance = torch.linspace(-1, 1, DIM, dtype=F64), torch.linspace(0.2, 1.5, DIM, dtype=F64)
    teacher = GaussianDenoiser(mean, variance)
    adaptive = AdaptiveProposal(8, 0.1, statistic, decay=0.9, refresh=1)
    annealed = AnnealedSampler(SCHEDULE, Estimator(2, 4, strategy), OPTIONS, STEPS, adaptive)
    g = stream("annealed", strategy)
    x = torch.randn(2, DIM, generator=g, dtype=F64)
    errors, lessons = [], Lessons()
    for step in range(STEPS):
        levels = annealed.levels(step)
        drawn = annealed.at(step).draw(2, 4, (DIM,), g, dtype=F64)

        def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor, at: TimestepRange = levels) -> Tensor:
            return sds_residual(teacher, x, at.sigma(u), eps, None)[0]

        observe = annealed.observer(step, lessons)
        sigma = levels.levels[:, None, None]
        exact = timestep_weight(sigma, "sds") * sigma * (x - mean) / (variance + sigma.square())
        errors.append(average_residual(residual, x, drawn, observe=observe) - exact.mean(0))
        lessons.teach(step, alone)
    found = torch.stack(errors)
    assert (found.mean(0).abs() < 4 * found.std(0) / STEPS**0.5).all()
    mass = annealed.at(STEPS).proposal.mass
    assert mass.max() > 1.5 * mass.min()
