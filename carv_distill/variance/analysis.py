"""Where one gradient's variance comes from, what each sampler buys per second, and what to use."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import ParamSpec

import torch
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, Proposal, Upstream, stream

from .advice import Advice
from .budget import VarianceBudget
from .comparison import Comparison, compare, measure_pairs, standard_arms
from .cost import CostModel, StageTimer, ecm, time_stages
from .estimate import Estimate, require_at_least
from .parity import NoiseParity
from .pipeline import Pipeline, sample_upstream
from .profile import NoiseLevelProfile

log = logging.getLogger(__name__)

BUSY = 1.5
"""Upper over lower quartile of a stage's seconds from which on the user is told."""

Inputs = ParamSpec("Inputs")


@dataclass(frozen=True)
class MeasuredGradient:
    """Whose gradient is measured, with the setting that it is trained at."""

    pipeline: Pipeline
    parameters: list[Tensor]
    """What the gradient is taken by."""
    sampler: NoiseLevelSampler
    upstream: int
    """R."""
    draws: int
    """K."""
    seed: int
    device: torch.device
    chunk: int | None = None
    """Re-noisings per call of the frozen networks; None is all R·K."""
    step: int = 0
    """Of the training; it names the random streams."""
    context: Callable[[], AbstractContextManager[None]] = nullcontext
    """What forward passes and residuals stand in, as the autocast of the training."""
    time_other: Callable[[StageTimer], None] = lambda timer: None
    """Times what an iteration does besides its gradient, as the stage ``other``."""
    importance: Callable[[float], Proposal] | None = None
    """A proposal known without a pilot, given its defensive share."""
    learned: bool = False
    """Whether the sampler's proposal is learned from past draws."""
    shares: int = 1
    """How many batches of R samples an iteration accumulates, one after the other."""

    def sample(self, count: int, generator: torch.Generator) -> Upstream:
        """The pipeline with all forward passes under the context; backwards are outside, as in a training."""
        with self.context():
            sample = sample_upstream(self.pipeline, count, generator)
        return sample._replace(
            residual=self._within(sample.residual),
            push=sample.push and self._within(sample.push),
            clip=sample.clip and self._within(sample.clip),
        )

    def _within(self, call: Callable[Inputs, Tensor]) -> Callable[Inputs, Tensor]:
        def within(*inputs: Inputs.args, **named: Inputs.kwargs) -> Tensor:
            with self.context():
                return call(*inputs, **named)

        return within

    @property
    def arm(self) -> str:
        """The standard arm that samples like it, but for the coupling of its noises."""
        mass = self.sampler.proposal.mass
        importance = self.learned or not torch.allclose(mass, mass[:1])
        strata = self.sampler.strategy != "iid"
        return ("IW+Strat" if strata else "IW") if importance else ("Strat" if strata else "uniform")


@dataclass(frozen=True)
class Check:
    """An advice put to the test at its own R and K."""

    total: Estimate
    """Variance of the gradient, measured anew."""
    seconds: float
    """Of an iteration, its gradient timed anew."""
    ecm: Estimate
    """Of the iteration, against the comparison's baseline, which shares no random stream with it."""


@dataclass(frozen=True)
class Analysis:
    """What :func:`analyse` gives."""

    step: int
    setting: tuple[str, int, int]
    """The gradient's own: the arm that samples like it, R and K."""
    shares: int
    """Batches of R samples that an iteration accumulates; costs, seconds and advice are of one of them, and
    what an iteration does besides is shared out among them."""
    comparison: Comparison
    profile: NoiseLevelProfile
    parity: NoiseParity
    noise: str
    """The coupling that the parity gate let into the arm `best`."""
    proposals: dict[str, Proposal]
    advice: dict[str, Advice]
    """Per arm, for the seconds that an iteration of the gradient's own setting takes."""
    check: Check
    """Of the best advice."""

    @property
    def best(self) -> str:
        """The arm whose advice promises most."""
        return max(self.advice, key=lambda arm: self.advice[arm].ecm)

    @property
    def predicted(self) -> Estimate:
        """What it promises, with the interval of the variances behind it."""
        return self.comparison.predicted(self.best, self.advice[self.best])


def analyse(
    gradient: MeasuredGradient,
    upstream: int = 8,
    draws: Sequence[int] = (1, 2, 4, 8, 16),
    pairs: int = 16,
    budget_upstreams: int = 32,
    profile_bins: int = 16,
    profile_upstreams: int = 32,
    defensive: float = 0.1,
    progress: Callable[[str], None] = log.info,
) -> Analysis:
    """Budget, costs, profile over noise levels, parity of the noise, all arms at all K, and the advice.

    The pilots (profile and parity) have random streams of their own, so that the proposals do not know the
    draws they are judged on; so has the check of the advice, as the advice is the best of what was compared.

    Args:
        upstream, draws: R and all K of the comparison, the least of them at most the gradient's own.
        pairs: of gradients for each (arm, K), at least 3.
        budget_upstreams: upstream samples of budget and parity, at least 3.
        profile_bins, profile_upstreams: see :class:`NoiseLevelProfile`.
        defensive: share of the prior in the proposals.
        progress: told what begins.

    Raises:
        ValueError: an argument outside its range, before anything is measured.
    """
    require_at_least(1, upstream=upstream, draws=min(draws, default=0))
    require_at_least(3, pairs=pairs, budget_upstreams=budget_upstreams)
    if min(draws) > gradient.draws:  # its own variance would not be known
        raise ValueError(
            f"draws must begin at the gradient's own K = {gradient.draws} or below, found {draws}"
        )
    g, p = gradient, gradient.parameters

    def own(name: str) -> torch.Generator:
        return stream(g.seed, g.step, "accounting", name, device=g.device)

    told = itertools.count(1)
    every = 5 + len(standard_arms(Proposal.uniform(), Proposal.uniform()))

    def begin(what: str) -> None:
        progress(f"{next(told)} of {every}: {what}")

    begin("costs of the stages")
    timer = StageTimer(g.device)
    with g.context():
        g.time_other(timer)
    time_stages(g.sample, p, g.sampler, g.upstream, g.draws, timer, chunk=g.chunk)
    cost = CostModel.measured(timer)
    cost = replace(cost, other=cost.other / g.shares)
    for name in timer.seconds:
        if timer.spread(name) > BUSY:
            log.warning(
                "seconds of stage %s vary (quartiles %.1f times apart): the machine is busy, so costs, ECM "
                "and advice are rough",
                name,
                timer.spread(name),
            )
    begin(f"budget: {budget_upstreams} upstream samples × 8 draws")
    budget = VarianceBudget.measure(g.sample, p, own("budget"), None, budget_upstreams, levels=4, noises=2)
    begin(f"profile over noise levels: {profile_bins} bins × {profile_upstreams} upstream samples")
    profile = NoiseLevelProfile.measure(g.sample, p, own("profile"), profile_bins, profile_upstreams)
    importance = (g.importance or profile.importance)(defensive)
    neyman = profile.neyman(defensive)
    begin("parity of the noise")
    parity = NoiseParity.measure(g.sample, p, own("parity"), neyman, budget_upstreams, max(2, *draws))
    noise = parity.gate()
    arms = standard_arms(importance, neyman, noise)
    comparison = compare(g.sample, p, arms, upstream, draws, pairs, cost, budget, g.seed, g.chunk, begin)
    spent = cost(g.upstream, g.draws)
    advice = {arm: comparison.advice(arm, spent) for arm in comparison.arms()}
    best = max(advice, key=lambda arm: advice[arm].ecm)
    sampler = next(arm.sampler for arm in arms if arm.name == best)
    begin(f"check of the advice: {best}, R = {advice[best].upstream}, K = {advice[best].draws}")
    check = _check(comparison, advice[best], sampler, g, pairs, own("check").initial_seed())
    proposals = {"importance": importance, "Neyman": neyman}
    setting = (g.arm, g.upstream, g.draws)
    return Analysis(g.step, setting, g.shares, comparison, profile, parity, noise, proposals, advice, check)


def _check(
    c: Comparison, a: Advice, sampler: NoiseLevelSampler, g: MeasuredGradient, pairs: int, seed: int
) -> Check:
    """Measures variance and seconds at the advised R and K.

    Args:
        seed: of its streams; with that of the comparison a setting that was compared would repeat.
    """
    timer, base = StageTimer(g.device), c.base
    time_stages(g.sample, g.parameters, sampler, a.upstream, a.draws, timer, chunk=g.chunk)
    seconds = c.cost.other + CostModel.measured(timer)(a.upstream, a.draws)
    total = measure_pairs(g.sample, g.parameters, sampler, a.upstream, a.draws, pairs, seed, g.chunk).total()
    return Check(total, seconds, ecm(base.total, c.cost(base.upstream, base.draws), total, seconds))
