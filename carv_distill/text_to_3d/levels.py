"""From which timesteps a step draws, and how: the annealed range and the proposal on it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from carv_distill.carv import AdaptiveProposal, Lessons, NoiseLevelSampler, Proposal
from carv_distill.carv.estimator import Observer
from carv_distill.teachers.schedule import VPSchedule

from .guidance import TimestepRange
from .options import SDSOptions


@dataclass(frozen=True)
class Estimator:
    """How many renders and re-noisings, and how noise levels and noises are drawn."""

    upstream: int
    """R, renders per step and process."""
    draws: int
    """K, re-noisings of each."""
    strategy: str = "stratified"
    noise: str = "iid"
    by_weight: bool = True
    """Whether q ∝ w(t); uniform otherwise."""
    defensive: float = 0.0
    chunk: int | None = None
    """Re-noisings per network call; None is all of a pass."""


class AnnealedSampler:
    """The noise-level sampler of every step, on a range of timesteps whose greatest falls.

    Args:
        schedule: of the teacher.
        estimator: strategy, noise and the proposal where none is learned.
        options: t_min, t_max, t_max_end and the weighting of q ∝ w(t).
        max_steps: over which the range is annealed.
        adaptive: learns the proposal on bins of *all* timesteps, so that what past steps taught stays with
            its timesteps as the range shrinks.
    """

    def __init__(
        self,
        schedule: VPSchedule,
        estimator: Estimator,
        options: SDSOptions,
        max_steps: int,
        adaptive: AdaptiveProposal | None = None,
    ) -> None:
        self.schedule, self.estimator, self.options = schedule, estimator, options
        self.max_steps, self.adaptive = max_steps, adaptive
        self._made: tuple[TimestepRange, NoiseLevelSampler] | None = None

    def levels(self, step: int) -> TimestepRange:
        """The timesteps of a step: the greatest goes from t_max to t_max_end in a straight line."""
        o = self.options
        done = min(step / max(self.max_steps - 1, 1), 1.0)
        greatest = o.t_max + done * (o.t_max_end - o.t_max)
        return TimestepRange.of_shares(self.schedule, o.t_min, greatest)

    def configured(self, step: int) -> NoiseLevelSampler:
        """The sampler on the timesteps of a step, without what is learned; made anew as they change."""
        levels, e = self.levels(step), self.estimator
        if self._made is None or self._made[0] != levels:
            uniform = Proposal.uniform(levels.count)
            q = levels.proposal(self.options.weighting, e.defensive) if e.by_weight else uniform
            self._made = levels, NoiseLevelSampler(q, e.strategy, e.noise)
        return self._made[1]

    def at(self, step: int) -> NoiseLevelSampler:
        """The sampler of a step, with the proposal that past steps taught where it is adaptive."""
        sampler = self.configured(step)
        if self.adaptive is None:
            return sampler
        return replace(sampler, proposal=self.adaptive.proposal(step, self.levels(step).places))

    def observer(self, step: int, lessons: Lessons) -> Observer | None:
        """What keeps a step's draws for the adaptive proposal, until the lessons are taught."""
        if self.adaptive is None:
            return None
        learner, levels = self.adaptive, self.levels(step)

        def observe(u: Tensor, residual: Tensor, index: Tensor) -> None:
            lessons.keep(learner, learner.rows(levels.place(u), residual, index))

        return observe
