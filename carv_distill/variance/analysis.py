"""Where one gradient's variance comes from, what each sampler buys per second, and what to use."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import ParamSpec

import torch
from torch import Tensor

from carv_distill.carv import Chunk, FiniteDraws, NoiseLevelSampler, Proposal, Upstream, stream

from .advice import Advice
from .budget import VarianceBudget
from .comparison import Arm, Comparison, compare, measure_pairs, standard_arms
from .cost import CostModel, StageTimer, ecm, time_stages
from .estimate import Estimate, require_at_least
from .parity import NoiseParity
from .pipeline import Pipeline, sample_upstream
from .profile import NoiseLevelProfile

log = logging.getLogger(__name__)

TURNS = 5
"""Of all sizes that are timed, two rounds each."""
BUSY = 1.5
"""Upper over lower quartile of a stage's seconds from which on the user is told."""

OWN = "own"
"""The arm of a gradient's own sampler, where none of the standard ones is that."""
UPSTREAM, PAIRS = 8, 16
"""R of a comparison, where the gradient has as many upstream samples, and its pairs; at fewer samples as many
more pairs."""

Inputs = ParamSpec("Inputs")


@dataclass(frozen=True)
class MeasuredGradient:
    """Whose gradient is measured, with the setting that it is trained at."""

    pipeline: Pipeline
    parameters: list[Tensor]
    """What the gradient is taken by."""
    sampler: NoiseLevelSampler
    """With the proposal that is in force, where that is learned."""
    upstream: int
    """R."""
    draws: int
    """K."""
    seed: int
    device: torch.device
    chunk: Chunk = field(default_factory=Chunk)
    """Re-noisings per call of the frozen networks."""
    step: int = 0
    """Of the training; it names the random streams."""
    context: Callable[[], AbstractContextManager[None]] = nullcontext
    """What forward passes and residuals stand in, as the autocast of the training."""
    time_other: Callable[[StageTimer], None] = lambda timer: None
    """Times what an iteration does besides its gradient, as the stage ``other``."""
    importance: Callable[[float], Proposal] | None = None
    """A proposal known without a pilot, given its defensive share."""
    spread: bool = False
    """Whether upstream samples are spread over their batch, as Sobol cameras."""
    finite: FiniteDraws | None = None
    """Counts the draws that its pipeline leaves out of averages, as they are not finite."""
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

    def arm(self, defensive: float) -> str:
        """The standard arm that samples like it, if one is sure to; otherwise :data:`OWN`."""
        uniform = Proposal.uniform()
        importance = uniform if self.importance is None else self.importance(defensive)
        *known, _ = standard_arms(importance, uniform)  # `best` is by a pilot
        return next((arm.name for arm in known if _alike(arm.sampler, self.sampler)), OWN)


def _alike(a: NoiseLevelSampler, b: NoiseLevelSampler) -> bool:
    """Whether two samplers draw the same; of a uniform proposal the number of bins does not matter."""
    p, q = a.proposal.mass, b.proposal.mass
    same = torch.equal(p, q) or bool((p == p[0]).all() and (q == q[0]).all())
    return same and (a.strategy, a.noise) == (b.strategy, b.noise)


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
    """The gradient's own: its arm, R and K."""
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
    upstream: int | None = None,
    draws: Sequence[int] = (1, 2, 4, 8, 16),
    pairs: int | None = None,
    budget_upstreams: int = 32,
    profile_bins: int = 16,
    profile_upstreams: int = 32,
    defensive: float = 0.1,
    progress: Callable[[str], None] = log.info,
) -> Analysis:
    """Budget, costs, profile over noise levels, parity of the noise, all arms at all K, and the advice.

    The pilots (profile and parity) have random streams of their own, so that the proposals do not know the
    draws they are judged on; so has the check of the advice, as the advice is the best of what was compared.

    The arms are those of :func:`standard_arms` and, where none is the gradient's own sampler, that.

    Args:
        upstream, draws: R and all K of the comparison, R and the least K at most the gradient's own; by
            default R = 8, or the gradient's own if that is less.
        pairs: of gradients for each (arm, K), at least 3; by default 16, and 128/R at fewer than 8 samples.
        budget_upstreams: upstream samples of budget and parity, at least 3.
        profile_bins, profile_upstreams: see :class:`NoiseLevelProfile`.
        defensive: share of the prior in the proposals.
        progress: told what begins.

    Raises:
        ValueError: an argument outside its range, before anything is measured.
    """
    g, p = gradient, gradient.parameters
    upstream = min(UPSTREAM, g.upstream) if upstream is None else upstream
    require_at_least(1, upstream=upstream, draws=min(draws, default=0))
    pairs = PAIRS * max(1, UPSTREAM // upstream) if pairs is None else pairs
    require_at_least(3, pairs=pairs, budget_upstreams=budget_upstreams)
    # its own variance would not be known
    if upstream > g.upstream:
        raise ValueError(f"upstream must be the gradient's own R = {g.upstream} or less, found {upstream}")
    if min(draws) > g.draws:
        raise ValueError(f"draws must begin at the gradient's own K = {g.draws} or below, found {draws}")

    def own(name: str) -> torch.Generator:
        return stream(g.seed, g.step, "accounting", name, device=g.device)

    told, own_arm = itertools.count(1), g.arm(defensive)
    every = 5 + len(standard_arms(Proposal.uniform(), Proposal.uniform())) + (own_arm == OWN)

    def begin(what: str) -> None:
        progress(f"{next(told)} of {every}: {what}")

    begin("costs of the stages")
    cost = _time(g, upstream, draws)
    begin(f"budget: {budget_upstreams} upstream samples × 8 draws")
    budget = VarianceBudget.measure(
        g.sample, p, own("budget"), None, budget_upstreams, levels=4, noises=2, chunk=g.chunk
    )
    begin(f"profile over noise levels: {profile_bins} bins × {profile_upstreams} upstream samples")
    profile = NoiseLevelProfile.measure(
        g.sample, p, own("profile"), profile_bins, profile_upstreams, chunk=g.chunk
    )
    importance = (g.importance or profile.importance)(defensive)
    neyman = profile.neyman(defensive)
    begin("parity of the noise")
    parity = NoiseParity.measure(
        g.sample, p, own("parity"), neyman, budget_upstreams, max(2, *draws), chunk=g.chunk
    )
    noise = parity.gate()
    arms = standard_arms(importance, neyman, noise)
    if own_arm == OWN:
        arms.append(Arm(OWN, g.sampler))
    comparison = compare(
        g.sample, p, arms, upstream, draws, pairs, cost, budget, g.seed, g.chunk, begin, g.spread
    )
    spent = cost(g.upstream, g.draws)
    advice = {arm: comparison.advice(arm, spent) for arm in comparison.arms()}
    best = max(advice, key=lambda arm: advice[arm].ecm)
    sampler = next(arm.sampler for arm in arms if arm.name == best)
    begin(f"check of the advice: {best}, R = {advice[best].upstream}, K = {advice[best].draws}")
    check = _check(comparison, advice[best], sampler, g, pairs, own("check").initial_seed())
    if g.finite is not None:
        _tell(g.finite)
    proposals = {"importance": importance, "Neyman": neyman}
    setting = (own_arm, g.upstream, g.draws)
    return Analysis(g.step, setting, g.shares, comparison, profile, parity, noise, proposals, advice, check)


def _time(g: MeasuredGradient, upstream: int, draws: Sequence[int]) -> CostModel:
    """Costs by lines through the seconds of the stages at the gradient's own (R, K) and at the least and most
    draws that are compared, as small batches cost more each; where all these have one R, at four times as
    many samples, too, if they fit. In turn, so that what disturbs the machine disturbs all alike."""
    compared = [(upstream, min(draws)), (upstream, max(draws))]
    if upstream == g.upstream:
        compared.append((4 * upstream, min(draws)))
    sizes = dict.fromkeys(compared, NoiseLevelSampler(Proposal.uniform(), "iid"))
    sizes[g.upstream, g.draws] = g.sampler
    with g.context():
        g.time_other(other := StageTimer(g.device))
    timed = {size: StageTimer(g.device) for size in sizes}
    for _ in range(TURNS):
        for (r, k), timer in [*timed.items()]:
            try:
                time_stages(g.sample, g.parameters, sizes[r, k], r, k, timer, repeats=2, chunk=g.chunk)
            except torch.OutOfMemoryError:
                if r <= g.upstream:
                    raise
                del timed[r, k]
    for name in {name: None for timer in (other, *timed.values()) for name in timer.seconds}:
        spread = max(timer.spread(name) for timer in (other, *timed.values()) if name in timer.seconds)
        if spread > BUSY:
            log.warning(
                "seconds of stage %s vary (quartiles %.1f times apart): the machine is busy, so costs, ECM "
                "and advice are rough",
                name,
                spread,
            )
    besides = other.median("other") / g.shares if other.seconds.get("other") else 0.0
    return CostModel.fitted(timed, besides)


def _tell(finite: FiniteDraws) -> None:
    """Says how many draws were left out, if any."""
    total, sound = finite.take()
    if left_out := total - int(sound):
        log.warning("%d of %d draws were not finite; they are left out, as in the training", left_out, total)


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
