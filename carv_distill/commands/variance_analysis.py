"""Variance accounting of a run at its newest checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from carv_distill.carv import NoiseLevelSampler, Proposal, stream
from carv_distill.distillation.module import DMDModule
from carv_distill.errors import UserError
from carv_distill.text_to_3d.module import SDSModule
from carv_distill.variance import (
    Advice,
    Comparison,
    CostModel,
    Estimate,
    NoiseLevelProfile,
    NoiseParity,
    Pipeline,
    StageTimer,
    VarianceBudget,
    compare,
    ecm,
    measure_pairs,
    standard_arms,
    time_stages,
    under,
)

from .target import Target, load_target

log = logging.getLogger(__name__)

BUSY = 1.5
"""Upper over lower quartile of a stage's seconds from which on the user is told."""


@dataclass(frozen=True)
class AccountingOptions:
    """How much is measured."""

    upstream: int = 8
    """R of every arm."""
    draws: tuple[int, ...] = (1, 2, 4, 8, 16)
    """K of every arm."""
    pairs: int = 16
    """Pairs of gradients for each (arm, K)."""
    budget_upstreams: int = 32
    profile_bins: int = 16
    profile_upstreams: int = 32
    defensive: float = 0.1
    """Share of the prior in the importance proposals."""

    def __post_init__(self) -> None:
        for key, flag, least in (
            ("upstream", "upstream", 1),
            ("pairs", "pairs", 3),
            ("budget_upstreams", "samples", 3),
        ):
            if getattr(self, key) < least:
                raise UserError(f"--{flag}: {getattr(self, key)} is below the least allowed value, {least}")
        if not self.draws or min(self.draws) < 1:
            raise UserError(f"--draws: found {list(self.draws)}; whole numbers from 1 are allowed")


@dataclass(frozen=True)
class Check:
    """An advice put to the test at its own R and K."""

    total: Estimate
    """Variance of the gradient, measured anew."""
    seconds: float
    """Of an iteration, timed anew."""
    ecm: Estimate
    """Of the iteration, against the comparison's baseline."""


@dataclass(frozen=True)
class Accounting:
    """What `evaluate.py variance` shows."""

    step: int
    own: tuple[str, int, int]
    """The run's own setting: the arm that samples like it, R and K."""
    comparison: Comparison
    profile: NoiseLevelProfile
    parity: NoiseParity
    noise: str
    """The coupling that the parity gate let into the arm `best`."""
    proposals: dict[str, Proposal]
    advice: dict[str, Advice]
    """Per arm, for the seconds that the run's own iteration takes."""
    check: Check
    """Of the best advice."""

    @property
    def best(self) -> str:
        """The arm whose advice promises most."""
        return max(self.advice, key=lambda arm: self.advice[arm].ecm)


def account(
    run: Path, options: AccountingOptions, device: str, progress: Callable[[str], None] = log.info
) -> Accounting:
    """Budget, costs, profile over noise levels, parity of the noise, all arms at all K, and the advice.

    The pilots (profile and parity) have random streams of their own, so that the proposals do not know the
    draws they are judged on.

    Raises:
        UserError: the run has no checkpoint.
    """
    o = options
    target = load_target(run, device)
    module, step, parameters = target.module, target.step, target.parameters

    def context() -> AbstractContextManager[None]:
        return torch.autocast(device, torch.bfloat16, enabled=target.mixed)

    pipeline = under(module.pipeline, context)

    def own(name: str) -> torch.Generator:
        return stream(module.seed, step, "accounting", name, device=module.device)

    progress("costs of the stages")
    timer = StageTimer(module.device)
    with context():
        target.time_other(timer)
    time_stages(pipeline, parameters, module.sampler, module.upstream, module.draws, timer)
    cost = CostModel.measured(timer)
    for name in timer.seconds:
        if timer.spread(name) > BUSY:
            log.warning(
                "seconds of stage %s vary (quartiles %.1f times apart): the machine is busy, so costs, ECM "
                "and advice are rough",
                name,
                timer.spread(name),
            )
    progress(f"budget: {o.budget_upstreams} upstream samples × 8 draws")
    budget = VarianceBudget.measure(
        pipeline, parameters, own("budget"), upstreams=o.budget_upstreams, levels=4, noises=2
    )
    progress(f"profile over noise levels: {o.profile_bins} bins × {o.profile_upstreams} upstream samples")
    profile = NoiseLevelProfile.measure(
        pipeline, parameters, own("profile"), o.profile_bins, o.profile_upstreams
    )
    importance = (target.importance or profile.importance)(o.defensive)
    neyman = profile.neyman(o.defensive)
    progress("parity of the noise")
    parity = NoiseParity.measure(
        pipeline,
        parameters,
        own("parity"),
        proposal=neyman,
        upstreams=o.budget_upstreams,
        draws=max(2, *o.draws),
    )
    noise = parity.gate()
    arms = standard_arms(importance, neyman, noise)
    comparison = compare(
        pipeline,
        parameters,
        arms,
        o.upstream,
        o.draws,
        o.pairs,
        cost,
        budget,
        seed=module.seed,
        chunk=module.chunk.rows,
        progress=progress,
    )
    spent = cost(module.upstream, module.draws)
    advice = {arm: comparison.advice(arm, spent) for arm in comparison.arms()}
    best = max(advice, key=lambda arm: advice[arm].ecm)
    sampler = next(arm.sampler for arm in arms if arm.name == best)
    progress(f"check of the advice: ({advice[best].upstream},{advice[best].draws}) {best}")
    check = _check(comparison, advice[best], sampler, pipeline, target, o.pairs)
    proposals = {"importance": importance, "Neyman": neyman}
    setting = (_arm_of(module), module.upstream, module.draws)
    return Accounting(step, setting, comparison, profile, parity, noise, proposals, advice, check)


def _check(
    c: Comparison, a: Advice, sampler: NoiseLevelSampler, pipeline: Pipeline, target: Target, pairs: int
) -> Check:
    """Measures variance and seconds at the advised R and K."""
    module, parameters = target.module, target.parameters
    timer = StageTimer(module.device)
    time_stages(pipeline, parameters, sampler, a.upstream, a.draws, timer, chunk=module.chunk.rows)
    seconds = c.cost.other + CostModel.measured(timer)(a.upstream, a.draws)
    total = measure_pairs(
        pipeline, parameters, sampler, a.upstream, a.draws, pairs, module.seed, module.chunk.rows
    ).total()
    base = c.base
    return Check(total, seconds, ecm(base.total, c.cost(base.upstream, base.draws), total, seconds))


def _arm_of(module: DMDModule | SDSModule) -> str:
    """The arm that samples as the module does, but for the coupling of its noises."""
    strata = module.sampler.strategy != "iid"
    mass = module.sampler.proposal.mass
    importance = module.adaptive is not None or not torch.allclose(mass, mass[:1])
    return {(False, False): "uniform", (False, True): "Strat", (True, False): "IW", (True, True): "IW+Strat"}[
        importance, strata
    ]
