"""The noise levels of a step: a range of timesteps, their weight, and the sampler that draws them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from carv_distill.carv import AdaptiveProposal, NoiseLevelSampler, Proposal
from carv_distill.engine.options import EstimatorOptions
from carv_distill.teachers.schedule import DiscreteSchedule
from carv_distill.text_to_3d.options import SDSOptions, greatest_level
from carv_distill.text_to_3d.schedules import value_at


@dataclass(frozen=True)
class TimestepRange:
    """The timesteps first … last of a schedule, uniform in u: t = first + ⌊u M⌋ of M.

    With a proposal of M bins, bin i is timestep first + i; 0 ≤ first ≤ last < T.
    """

    schedule: DiscreteSchedule
    first: int
    last: int

    @classmethod
    def of_shares(cls, schedule: DiscreteSchedule, low: float, high: float) -> TimestepRange:
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


class AnnealedSampler:
    """The noise-level sampler of every step, on a range of timesteps that may change with it.

    Args:
        schedule: of the teacher.
        estimator: strategy, noise and the proposal where none is learned.
        options: t_min, t_max, t_max_end and the weighting of q ∝ w(t).
        max_steps: over which t_max_end, where there is one, is reached.
        adaptive: learns the proposal on bins of *all* timesteps, so that what past steps taught stays with
            its timesteps as the range shrinks.
    """

    def __init__(
        self,
        schedule: DiscreteSchedule,
        estimator: EstimatorOptions,
        options: SDSOptions,
        max_steps: int,
        adaptive: AdaptiveProposal | None = None,
    ) -> None:
        self.schedule, self.estimator, self.options = schedule, estimator, options
        self.greatest, self.adaptive = greatest_level(options, max_steps), adaptive
        self._latest: tuple[TimestepRange, NoiseLevelSampler] | None = None

    def range_at(self, step: int) -> TimestepRange:
        """The timesteps of a step."""
        low, high = value_at(self.options.t_min, step), value_at(self.greatest, step)
        return TimestepRange.of_shares(self.schedule, low, high)

    def configured(self, step: int) -> NoiseLevelSampler:
        """The sampler on the timesteps of a step, without what is learned; one while the range stays."""
        levels, e = self.range_at(step), self.estimator
        if self._latest is None or self._latest[0] != levels:
            q = Proposal.uniform(levels.count)
            if e.proposal == "weighting":
                q = levels.proposal(self.options.weighting, e.defensive)
            self._latest = levels, NoiseLevelSampler(q, e.strategy, e.noise)
        return self._latest[1]

    def sampler_at(self, step: int) -> NoiseLevelSampler:
        """The sampler of a step, with the proposal that past steps taught where it is adaptive."""
        sampler = self.configured(step)
        if self.adaptive is None:
            return sampler
        return replace(sampler, proposal=self.adaptive.proposal(step, self.range_at(step).places))


def timestep_weight(sigma: Tensor, weighting: str) -> Tensor:
    """w(t), shape of σ: sds 1 − ᾱ = σ²/(1 + σ²), uniform 1, fantasia3d √ᾱ (1 − ᾱ).

    Raises:
        ValueError: another name.

    Source: DreamFusion, section 3; Fantasia3D (arXiv 2303.13873), section 3.3.
    """
    noise = 1 / (1 + sigma.square().reciprocal())  # 1 at σ = ∞
    match weighting:
        case "sds":
            return noise
        case "uniform":
            return torch.ones_like(sigma)
        case "fantasia3d":
            return (1 - noise).sqrt() * noise
    raise ValueError(f"weighting must be one of sds, uniform, fantasia3d; found {weighting!r}")
