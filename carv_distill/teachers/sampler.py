"""Samples of a teacher by integrating its probability-flow ODE."""

from __future__ import annotations

from math import isinf

import torch
from torch import Tensor

from .condition import Cond
from .denoiser import Denoiser, NetworkDenoiser
from .schedule import DiscreteSchedule, NoiseSchedule


def sample(
    denoiser: NetworkDenoiser, schedule: NoiseSchedule, z: Tensor, cond: Cond = None, steps: int = 18
) -> Tensor:
    """By :func:`heun_sample`, or where the schedule begins at σ = ∞, at which only z itself is finite, by
    :func:`ddim_sample`."""
    if isinstance(schedule, DiscreteSchedule) and isinf(schedule.sigma_max):
        return ddim_sample(denoiser, schedule, z, cond, steps)
    return heun_sample(denoiser, schedule, z, cond, steps)


def solver_of(schedule: NoiseSchedule) -> str:
    """The name of what :func:`sample` integrates by."""
    return "DDIM" if isinf(schedule.sigma_max) else "Heun"


@torch.no_grad()
def heun_sample(
    denoiser: Denoiser, schedule: NoiseSchedule, z: Tensor, cond: Cond = None, steps: int = 18
) -> Tensor:
    """Deterministic Heun steps from x = σ_max z down to σ = 0; 2·steps − 1 network calls.

    dx/dσ = (x − D(x, σ))/σ; the levels are the schedule's at `steps` ≥ 2 equal distances in u, then 0. z is
    standard normal, [n, …].

    Source: Karras et al. 2022 (EDM), algorithm 1.
    """
    if steps < 2:
        raise ValueError(f"steps must be at least 2, found {steps}")
    levels = schedule.sigma(torch.linspace(1, 0, steps, device=z.device, dtype=z.dtype))
    levels = torch.cat([levels, levels.new_zeros(1)])
    ones = z.new_ones(z.shape[0])
    x = levels[0] * z
    for i in range(steps):
        here, there = levels[i], levels[i + 1]
        slope = (x - denoiser(x, here * ones, cond)) / here
        euler = x + (there - here) * slope
        if i == steps - 1:
            return euler
        slope_there = (euler - denoiser(euler, there * ones, cond)) / there
        x = x + (there - here) * (slope + slope_there) / 2
    return x


@torch.no_grad()
def ddim_sample(
    denoiser: NetworkDenoiser, schedule: DiscreteSchedule, z: Tensor, cond: Cond = None, steps: int = 50
) -> Tensor:
    """Deterministic DDIM steps from the last timestep, where the network sees z, to x̂; `steps` network calls.

    From one level to the next y' = a' x̂ + b' ε̂: for flow matching Euler's y + (t' − t) v. The timesteps lie
    at equal distances in u, the last one first ("trailing"), so that sampling starts from pure noise. z is
    standard normal, [n, …].

    Source: Song et al. 2021 (DDIM), equation 12 with η = 0; Lin et al. 2024, section 3.3, for the spacing.
    """
    if not 1 <= steps <= schedule.timesteps:
        raise ValueError(f"steps must be 1 to {schedule.timesteps}, found {steps}")
    places = torch.linspace(schedule.timesteps, 0, steps + 1, dtype=torch.float64)[:-1]
    levels = schedule.sigma_at(places.round().long() - 1, z)
    y, x = z, z
    for i in range(steps):
        c = denoiser.coefficients(z, levels[i].expand(len(z)))
        raw = denoiser.raw(y, c, cond)
        x = c.skip * y + c.out * raw
        if i < steps - 1:
            there = denoiser.coefficients(z, levels[i + 1].expand(len(z)))
            y = there.noised(x, c.eps_skip * y + c.eps_out * raw)
    return x
