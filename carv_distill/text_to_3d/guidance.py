"""What a text-to-image teacher says about pictures: noise levels, weights, the SDS residual."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from carv_distill.carv import Lessons, NoiseCoefficient, Proposal
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.schedule import VPSchedule


@dataclass(frozen=True)
class TimestepRange:
    """The timesteps first … last of a schedule, uniform in u: t = first + ⌊u M⌋ of M.

    With a proposal of M bins, bin i is timestep first + i.

    Args:
        schedule: of the teacher.
        first, last: 0 ≤ first ≤ last < T.
    """

    schedule: VPSchedule
    first: int
    last: int

    @classmethod
    def of_shares(cls, schedule: VPSchedule, low: float, high: float) -> TimestepRange:
        """From shares of the timesteps, as 0.02 … 0.98."""
        top = schedule.timesteps - 1
        first = min(int(low * schedule.timesteps), top)
        return cls(schedule, first, max(first, min(int(high * schedule.timesteps), top)))

    @property
    def count(self) -> int:
        """M."""
        return self.last - self.first + 1

    @cached_property
    def levels(self) -> Tensor:
        """σ of each timestep, [M], float64."""
        return self.schedule.table[self.first : self.last + 1]

    def timestep(self, u: Tensor) -> Tensor:
        """t at u in [0, 1), same shape."""
        return self.first + (u * self.count).long().clamp_(0, self.count - 1)

    def sigma(self, u: Tensor) -> Tensor:
        """σ at u in [0, 1), same shape and dtype."""
        return self.schedule.sigma((self.timestep(u).to(u.dtype) + 0.5) / self.schedule.timesteps)

    def place(self, u: Tensor) -> Tensor:
        """u of this range → the middle of its timestep among all T, (t + ½)/T, which stays the same as the
        range changes; same shape, float64, so that a timestep has one place whatever the dtype of u."""
        return (self.timestep(u).double() + 0.5) / self.schedule.timesteps

    @cached_property
    def places(self) -> Tensor:
        """The place of each timestep, [M], float64."""
        steps = torch.arange(self.first, self.last + 1, dtype=torch.float64)
        return (steps + 0.5) / self.schedule.timesteps

    def proposal(self, weighting: str, defensive: float) -> Proposal:
        """q ∝ w(t) on these timesteps, mixed with the prior (arXiv 2605.21489, section 4)."""
        return Proposal.from_weights(timestep_weight(self.levels, weighting), defensive)


def timestep_weight(sigma: Tensor, weighting: str) -> Tensor:
    """w(t), shape of σ: sds 1 − ᾱ = σ²/(1 + σ²), uniform 1, fantasia3d √ᾱ (1 − ᾱ).

    Source: DreamFusion, section 3; Fantasia3D (arXiv 2303.13873), section 3.3.
    """
    noise = sigma.square() / (1 + sigma.square())
    match weighting:
        case "sds":
            return noise
        case "uniform":
            return torch.ones_like(sigma)
        case "fantasia3d":
            return (1 - noise).sqrt() * noise
    raise ValueError(f"weighting must be one of sds, uniform, fantasia3d; found {weighting!r}")


def sds_residual(
    denoiser: NetworkDenoiser,
    x: Tensor,
    sigma: Tensor,
    eps: Tensor,
    cond: Tensor,
    weighting: str = "sds",
    coefficient: Tensor | float = 1.0,
) -> tuple[Tensor, Tensor]:
    """(w(t) (ε̂ − c ε), ε̂) with ε̂ = (x_t − D(x_t, σ, cond))/σ, x_t = x + σ ε.

    Any c that does not depend on this ε leaves the mean as it is: E[ε | x, t] = 0.

    Args:
        x, eps: [n, C, s, s].
        sigma: [n].
        cond: prompt embeddings, [n, L, D].
        coefficient: c, one or [n].

    Source: DreamFusion (arXiv 2209.14988), equation 3, c = 1.
    """
    shape = (-1, *[1] * (x.ndim - 1))
    predicted = denoiser.predict_noise(x + sigma.view(shape) * eps, sigma, cond)
    if isinstance(coefficient, Tensor):
        coefficient = coefficient.view(shape)
    return timestep_weight(sigma, weighting).view(shape) * (predicted - coefficient * eps), predicted


@dataclass
class Guidance:
    """The residual of pictures that stand in one prompt's views.

    Args:
        denoiser: guided, frozen.
        levels: of the present step.
        weighting: of w(t).
        coefficient: learns c from past draws; None is c = 1.
        lessons: keeps what draws teach c until the step is done; None teaches it at once.
    """

    denoiser: NetworkDenoiser
    levels: TimestepRange
    weighting: str
    coefficient: NoiseCoefficient | None = None
    lessons: Lessons | None = None

    def residual(
        self, x: Tensor, u: Tensor, eps: Tensor, cond: Tensor, step: int, observe: bool = False
    ) -> Tensor:
        """w (ε̂ − c ε), [n, C, s, s]; `observe` lets c learn from these draws, for later steps."""
        c: Tensor | float = 1.0
        if self.coefficient is not None:
            c = self.coefficient.at(step, self.levels.place(u)).to(x.dtype)
        r, predicted = sds_residual(self.denoiser, x, self.levels.sigma(u), eps, cond, self.weighting, c)
        if observe and self.coefficient is not None:
            rows = self.coefficient.rows(self.levels.place(u), predicted, eps)
            if self.lessons is None:
                self.coefficient.add(step, rows)
            else:
                self.lessons.keep(self.coefficient, rows)
        return r


def clip_norm(direction: Tensor, greatest: float) -> Tensor:
    """Each picture's averaged direction, shortened to this norm: [R, …].

    Biased where it fires, as E clip(g) is not clip(E g); on the average less so than on its draws, and the
    less the more draws there are.
    """
    norm = direction.flatten(1).norm(dim=1).clamp(min=1e-12)
    return direction * (greatest / norm).clamp(max=1).view(-1, *[1] * (direction.ndim - 1))
