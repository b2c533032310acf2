"""The multiple c of ε in ε̂ − c ε, learned at a checkpoint that was trained without one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from carv_distill.carv import NoiseCoefficient
from carv_distill.carv.estimator import Residual
from carv_distill.text_to_3d.guidance.timesteps import TimestepRange, timestep_weight
from studies.gradient import MeasuredGradient


def with_learned_coefficient(
    gradient: MeasuredGradient,
    levels: TimestepRange,
    weighting: str,
    generator: torch.Generator,
    renders: int = 32,
    draws: int = 16,
) -> MeasuredGradient:
    """The gradient with residual w (ε̂ − c ε) in place of w (ε̂ − ε), c learned from draws of its own, at
    renders of its own.

    Args:
        levels, weighting: timesteps and w(t) of the gradient's residual.
    """
    coefficient, step = NoiseCoefficient(), gradient.step

    def weight(u: Tensor, like: Tensor) -> Tensor:
        return timestep_weight(levels.sigma(u), weighting).view(-1, *[1] * (like.ndim - 1))

    with torch.no_grad():
        for number in range(renders):
            render, residual, *_ = gradient.pipeline(1, generator)
            u = torch.rand(draws, generator=generator)
            x = render.expand(draws, *render.shape[1:])
            eps = torch.randn(x.shape, generator=generator)
            r = residual(x, u, eps, torch.zeros(draws, dtype=torch.long))
            coefficient.observe(step + number, levels.place(u), r / weight(u, x) + eps, eps)

    def pipeline(count: int, generator: torch.Generator) -> tuple[Tensor, Residual]:
        x, residual, *_ = gradient.pipeline(count, generator)

        def with_coefficient(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
            c = coefficient.at(step + renders, levels.place(u)).to(x.dtype).view(-1, *[1] * (x.ndim - 1))
            return residual(x, u, eps, index) + weight(u, x) * (1 - c) * eps

        return x, with_coefficient

    return replace(gradient, pipeline=pipeline)
