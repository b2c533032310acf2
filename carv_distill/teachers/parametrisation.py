"""What a raw network F is fed, and what its output means, under each of the usual parametrisations.

One formula for all: the network sees y, a mixture of picture and noise, and what it gives is turned into an
estimate of either:

    y = a x + b ε,      x̂ = p y + q F(y, c_noise, cond),      ε̂ = r y + s F,      a x̂ + b ε̂ = y.

σ = b/a is the noise level. All six are finite at σ = ∞, pure noise, where the parametrisation is, so that
flow models and schedules of zero signal at their end go through the same code; x + σ ε itself would not be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .schedule import DiscreteSchedule


class Coefficients(NamedTuple):
    """Those of the formula at given noise levels, each of the shape of σ."""

    signal: Tensor
    """a."""
    noise: Tensor
    """b."""
    skip: Tensor
    """p."""
    out: Tensor
    """q."""
    eps_skip: Tensor
    """r."""
    eps_out: Tensor
    """s."""
    c_noise: Tensor
    """The noise level as the network is told it."""

    def noised(self, x: Tensor, eps: Tensor) -> Tensor:
        """y = a x + b ε."""
        return self.signal * x + self.noise * eps

    def shaped(self, ndim: int) -> Coefficients:
        """To multiply a batch of so many dimensions; c_noise stays [n]."""
        shape = (-1, *[1] * (ndim - 1))
        a, b, p, q, r, s = (t.view(shape) for t in self[:6])
        return Coefficients(a, b, p, q, r, s, self.c_noise)


Preconditioning = Callable[[Tensor], Coefficients]
"""σ of any shape → its coefficients. Two are equal where they give the same ones."""


@dataclass(frozen=True)
class EDMPreconditioning:
    """a = 1/√(σ² + σ_d²); x̂ = σ_d² a y + σ σ_d a F; c_noise = ln(σ)/4.

    In x_t = x + σ ε that is c_skip = σ_d²/(σ²+σ_d²), c_out = σ σ_d/√(σ²+σ_d²), c_in = 1/√(σ²+σ_d²).

    Source: Karras et al. 2022 (EDM), table 1.
    """

    sigma_data: float = 0.5

    def __call__(self, sigma: Tensor) -> Coefficients:
        d = self.sigma_data
        a = (sigma.square() + d**2).rsqrt()
        return Coefficients(a, sigma * a, d**2 * a, sigma * d * a, sigma * a, -d * a, sigma.log() / 4)


@dataclass(frozen=True)
class EpsPreconditioning:
    """a = 1/√(1 + σ²), b = σ a; F predicts ε: x̂ = (y − b F)/a."""

    schedule: DiscreteSchedule

    def __call__(self, sigma: Tensor) -> Coefficients:
        a, b = variance_preserving(sigma)
        zero, one = torch.zeros_like(sigma), torch.ones_like(sigma)
        return Coefficients(a, b, 1 / a, -sigma, zero, one, self.schedule.timestep(sigma))


@dataclass(frozen=True)
class VPreconditioning:
    """a, b as of ε-prediction; F predicts v = a ε − b x: x̂ = a y − b F, ε̂ = b y + a F.

    Source: Salimans & Ho 2022, appendix D.
    """

    schedule: DiscreteSchedule

    def __call__(self, sigma: Tensor) -> Coefficients:
        a, b = variance_preserving(sigma)
        return Coefficients(a, b, a, -b, b, a, self.schedule.timestep(sigma))


@dataclass(frozen=True)
class SamplePreconditioning:
    """a, b as of ε-prediction; F predicts x itself: x̂ = F."""

    schedule: DiscreteSchedule

    def __call__(self, sigma: Tensor) -> Coefficients:
        a, b = variance_preserving(sigma)
        zero, one = torch.zeros_like(sigma), torch.ones_like(sigma)
        return Coefficients(a, b, zero, one, 1 / b, -a / b, self.schedule.timestep(sigma))


@dataclass(frozen=True)
class FlowPreconditioning:
    """a = 1 − t, b = t with t = σ/(1 + σ); F predicts the velocity v = ε − x: x̂ = y − t F, ε̂ = y + (1 − t) F.

    Source: Lipman et al. 2023; Liu et al. 2023 (rectified flow); time as in Esser et al. 2024 (SD3).
    """

    schedule: DiscreteSchedule

    def __call__(self, sigma: Tensor) -> Coefficients:
        t = 1 / (1 + 1 / sigma)  # 1 at σ = ∞
        a, one = 1 / (1 + sigma), torch.ones_like(sigma)
        return Coefficients(a, t, one, -t, one, a, self.schedule.timestep(sigma))


def variance_preserving(sigma: Tensor) -> tuple[Tensor, Tensor]:
    """(a, b) with a² + b² = 1 and b/a = σ; 0 and 1 at σ = ∞."""
    return (1 + sigma.square()).rsqrt(), (1 + sigma.square().reciprocal()).rsqrt()
