"""Noise-free score distillation: guidance, and a correction towards pictures that look real."""

from __future__ import annotations

import torch
from torch import Tensor

from carv_distill.teachers.condition import Cond, Condition, HeldCondition
from carv_distill.teachers.denoiser import GuidedDenoiser, NetworkDenoiser
from carv_distill.teachers.schedule import DiscreteSchedule

SMALL = 0.2
"""Share of the timesteps below which the unconditional prediction has little noise in it: 200 of 1,000."""


class NoiseFreeScore(GuidedDenoiser):
    """What takes the place of ε̂ in the residual w(t) (ε̂ − c ε), here with c = 0: δ_D + s δ_C with

        δ_C = ε̂(x_t, y) − ε̂(x_t, ∅),
        δ_D = ε̂(x_t, ∅) at t < 200 of 1,000,    ε̂(x_t, ∅) − ε̂(x_t, p_neg) from there on,

    where p_neg is a prompt of what is not wanted. Three predictions of the network for a draw.

    Args:
        negative: p_neg, without a row axis.
        schedule: of the teacher; says which σ are below 200 of 1,000.

    Source: Noise-free score distillation, arXiv 2310.17590.
    """

    def __init__(
        self,
        base: NetworkDenoiser,
        scale: float,
        null: Tensor | Condition,
        negative: Tensor | Condition,
        schedule: DiscreteSchedule,
    ) -> None:
        super().__init__(base, scale, null)
        self.negative = HeldCondition(negative)
        first = min(max(round(SMALL * schedule.timesteps), 1), schedule.timesteps - 1)
        # between two levels, whatever σ's precision
        self.small = float(schedule.table[first - 1 : first + 1].mean())

    def predict_noise(self, x: Tensor, sigma: Tensor, eps: Tensor, cond: Cond = None) -> Tensor:
        """δ_D + s δ_C at x_t = x + σ ε; arguments and shape as of every denoiser."""
        c = self.coefficients(x, sigma)
        y = c.noised(x, eps)
        own, none, negative = self.raw_of_each(y, c, cond, self.null.value, self.negative.value)
        small = (sigma < self.small).view(-1, *[1] * (x.ndim - 1))
        domain = torch.where(small, c.eps_skip * y + c.eps_out * none, c.eps_out * (none - negative))
        return domain + self.scale * c.eps_out * (own - none)
