"""Samples of a teacher by integrating its probability-flow ODE."""

from __future__ import annotations

import torch
from torch import Tensor

from .denoiser import Denoiser
from .schedule import NoiseSchedule


@torch.no_grad()
def heun_sample(
    denoiser: Denoiser, schedule: NoiseSchedule, z: Tensor, cond: Tensor | None = None, steps: int = 18
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
