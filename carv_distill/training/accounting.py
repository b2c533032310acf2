"""Variance accounting of a distillation run at its newest checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from carv_distill.accounting import (
    Comparison,
    compare,
    comparison_dict,
    comparison_tables,
    standard_arms,
    time_stages,
)
from carv_distill.accounting.tables import estimate_dict
from carv_distill.carv import (
    Advice,
    CostModel,
    Estimate,
    NoiseLevelProfile,
    NoiseParity,
    Proposal,
    StageTimer,
    VarianceBudget,
    stream,
)
from carv_distill.data import load_images
from carv_distill.dmd import DMDModule
from carv_distill.dmd.cost import time_other
from carv_distill.errors import UserError

from .checkpoint import newest_checkpoint
from .measure import run_config
from .run import build_module

log = logging.getLogger(__name__)


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
class Accounting:
    """What `evaluate.py variance` shows."""

    step: int
    comparison: Comparison
    profile: NoiseLevelProfile
    parity: NoiseParity
    noise: str
    """The coupling that the parity gate let into the arm `best`."""
    proposals: dict[str, Proposal]
    advice: dict[str, Advice]
    """Per arm, for the seconds that the run's own iteration takes."""


def load_run(run: Path, device: str) -> tuple[DMDModule, int]:
    """The module of a run at its newest checkpoint, and that checkpoint's step.

    Raises:
        UserError: the run has no checkpoint.
    """
    config = run_config(run)
    module = build_module(config, load_images(config.data.name))
    assert isinstance(module, DMDModule)
    newest = newest_checkpoint(run / "checkpoints")
    if newest is None:
        raise UserError(f"{run / 'checkpoints'} holds no checkpoint to measure")
    path, step = newest
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)["state_dict"]
    module.load_state_dict(state, strict=False)
    return module.to(device), step


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
    module, step = load_run(run, device)
    parameters = list(module.student.parameters())

    def own(name: str) -> torch.Generator:
        return stream(module.seed, step, "accounting", name, device=module.device)

    progress("costs of the stages")
    timer = StageTimer(module.device)
    time_other(module, timer)
    time_stages(module.pipeline, parameters, module.sampler, module.upstream, module.draws, timer)
    cost = CostModel.measured(timer)
    progress(f"budget: {o.budget_upstreams} upstream samples × 8 draws")
    budget = VarianceBudget.measure(
        module.pipeline, parameters, own("budget"), upstreams=o.budget_upstreams, levels=4, noises=2
    )
    progress(f"profile over noise levels: {o.profile_bins} bins × {o.profile_upstreams} upstream samples")
    profile = NoiseLevelProfile.measure(
        module.pipeline, parameters, own("profile"), o.profile_bins, o.profile_upstreams
    )
    importance, neyman = profile.importance(o.defensive), profile.neyman(o.defensive)
    progress("parity of the noise")
    parity = NoiseParity.measure(
        module.pipeline, parameters, own("parity"), upstreams=o.budget_upstreams, draws=max(2, *o.draws)
    )
    noise = parity.gate()
    comparison = compare(
        module.pipeline,
        parameters,
        standard_arms(importance, neyman, noise),
        o.upstream,
        o.draws,
        o.pairs,
        cost,
        budget,
        seed=module.seed,
        chunk=module.chunk,
        progress=progress,
    )
    spent = cost(module.upstream, module.draws)
    advice = {arm: comparison.advice(arm, spent) for arm in comparison.arms()}
    proposals = {"importance": importance, "Neyman": neyman}
    return Accounting(step, comparison, profile, parity, noise, proposals, advice)


def accounting_tables(found: Accounting) -> list[Table]:
    """Everything for the screen."""
    tables = comparison_tables(found.comparison, found.advice)
    parity = Table("coupling of the noise", "variance factor against iid", box=SIMPLE_HEAD, title="Noise")
    for name, e in _factors(found.parity).items():
        taken = ", used in `best`" if name == found.noise else ""
        parity.add_row(name + taken, f"{e.value:.3g} [{e.low:.3g}, {e.high:.3g}]")
    return [*tables, parity]


def _factors(parity: NoiseParity) -> dict[str, Estimate]:
    return {"antithetic": parity.antithetic, "zero_sum": parity.zero_sum}


def accounting_dict(found: Accounting) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "step": found.step,
        **comparison_dict(found.comparison, found.advice),
        "noise": found.noise,
        "noise_factors": {name: estimate_dict(e) for name, e in _factors(found.parity).items()},
        "proposals": {name: q.mass.tolist() for name, q in found.proposals.items()},
    }
