"""Why: states of one run, looked into with every estimator on the same samples.

Of each state the variance of the gradient and what it is beside its signal; the variances of the teacher's
score and of the score difference; and the fake score's lag, by a copy that is trained on the frozen student.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, Proposal, Upstream, stream
from carv_distill.distillation.building import build_module, load_data
from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.objective import ALONE, DMDObjective, dmd_residual, draw
from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.checkpoints import load_checkpoint
from carv_distill.engine.folder import checkpoints_in
from carv_distill.errors import UserError
from carv_distill.tasks import open_run
from carv_distill.teachers.condition import Cond
from carv_distill.teachers.denoiser import NetworkDenoiser, denoised_difference, denoising_loss
from carv_distill.variance import Estimate, PairedVariance, measure_pairs
from carv_distill.variance.estimate import normal_quantile
from studies.cached import compute
from studies.dmd_gap.noise import horizon, noise_left
from studies.dmd_gap.settings import Effort
from studies.study import Row, columns

ESTIMATORS = {"(8,1) iid": (1, "iid"), "(8,16) iid": (16, "iid"), "(8,16) stratified": (16, "stratified")}
"""K and strategy, at R = 8."""
UPSTREAM = 8
COMPARED = 16
"""Batches of a copy's, in which its loss is compared with that of the run's own fake score."""
CPU = torch.device("cpu")
Call = Callable[[Tensor, Tensor, Tensor, Cond], Tensor]
"""(x, σ, ε, condition) → a residual, shape of x."""


@dataclass(frozen=True)
class Scores:
    """Variances over draws with the samples fixed, of means over K draws, in the space of x."""

    teacher: Estimate
    """Of the teacher's score (D − x_t)/σ², as σ² times it: mostly of ε itself, where σ is large."""
    difference: Estimate
    """Of σ² times the difference of the scores, D_fake − D_teacher."""


@dataclass(frozen=True)
class Lag:
    """What the fake score's error does to the expected gradient: its lag, and its own noise of the moment.

    With two copies that have caught up on other samples, g₁ and g₂ in its place, so that a copy's own error
    does not count.
    """

    error: Estimate
    """⟨E g − E g₁, E g − E g₂⟩."""
    signal: Estimate
    """⟨E g₁, E g₂⟩ = |E g*|²."""
    loss: float
    """The fake score's loss as the run has it."""
    refined: float
    """The mean of the copies'."""


def config_of(run: Path) -> DMDConfig:
    """A distillation's configuration."""
    _, config = open_run(run)
    assert isinstance(config, DMDConfig)
    return config


def open_state(run: Path, step: int) -> DMDModule:
    """A distillation at one of its checkpoints."""
    config = config_of(run)
    module = build_module(config, load_data(config))
    load_checkpoint(module, run, config, "cpu", step)
    return module


def sampler_of(estimator: str) -> tuple[int, NoiseLevelSampler]:
    """K and the sampler."""
    draws, strategy = ESTIMATORS[estimator]
    return draws, NoiseLevelSampler(Proposal.uniform(), strategy)


def measure_gradient(run: Path, step: int, estimator: str, pairs: int) -> PairedVariance:
    """Of the student's gradient."""
    objective, (draws, sampler) = open_state(run, step).objective, sampler_of(estimator)
    parameters = list(objective.student_parameters)
    return measure_pairs(objective.pipeline(), parameters, sampler, UPSTREAM, draws, pairs)


def measure_scores(run: Path, step: int, estimator: str, pairs: int) -> Scores:
    """Of the teacher's score and of the difference."""
    objective, (draws, sampler) = open_state(run, step).objective, sampler_of(estimator)

    def score(x: Tensor, sigma: Tensor, eps: Tensor, cond: Cond) -> Tensor:
        _, denoised = denoised_difference(objective.fake, objective.teacher, x, sigma, eps, cond)
        return denoised - x - sigma.view(-1, *[1] * (x.ndim - 1)) * eps

    def difference(x: Tensor, sigma: Tensor, eps: Tensor, cond: Cond) -> Tensor:
        return denoised_difference(objective.fake, objective.teacher, x, sigma, eps, cond)[0]

    def within(call: Call) -> Estimate:
        pipeline = pipeline_of(objective, call, fixed=True)
        return measure_pairs(pipeline, (), sampler, UPSTREAM, draws, pairs, device=CPU).within()

    return Scores(within(score), within(difference))


def measure_lag(run: Path, step: int, effort: Effort) -> Lag:
    """Trains two copies of the fake score on the frozen student; pairs of (8,16) stratified measure what they
    change."""
    module = open_state(run, step)
    objective, copies = module.objective, [refined(module, name, effort) for name in ("first", "second")]
    draws, sampler = sampler_of("(8,16) stratified")

    def gradient(fake: NetworkDenoiser) -> Call:
        return lambda x, sigma, eps, cond: dmd_residual(fake, objective.teacher, x, sigma, eps, cond)

    def squared(call: Call) -> Estimate:
        pipeline, parameters = pipeline_of(objective, call), list(objective.student_parameters)
        return measure_pairs(pipeline, parameters, sampler, UPSTREAM, draws, effort.pairs).squared_norm()

    first, second = (gradient(fake) for fake in copies)
    own = gradient(objective.fake)

    def inner(a: Call, b: Call) -> Estimate:
        """⟨E a, E b⟩ = |E (a + b)/2|² − |E (a − b)/2|²; as if of other draws, which is the wide side."""
        plus, minus = (squared(_half(a, b, sign)) for sign in (1, -1))
        value, se = plus.value - minus.value, math.hypot(plus.se, minus.se)
        half = normal_quantile(0.975) * se
        return Estimate(value, se, value - half, value + half)

    losses = [compared_loss(objective, fake, effort.batch) for fake in (objective.fake, *copies)]
    error = inner(_less(own, first), _less(own, second))
    return Lag(error, inner(first, second), losses[0], statistics.fmean(losses[1:]))


def _half(a: Call, b: Call, sign: int) -> Call:
    return lambda *about: (a(*about) + sign * b(*about)) / 2


def _less(a: Call, b: Call) -> Call:
    return lambda *about: a(*about) - b(*about)


def pipeline_of(
    objective: DMDObjective, call: Call, fixed: bool = False
) -> Callable[[int, torch.Generator], Upstream]:
    """Student samples with this residual; `fixed` ones have no graph to the student."""
    o = objective.options

    def pipeline(count: int, g: torch.Generator) -> Upstream:
        z, labels = objective.upstream_noise(count, g)
        with torch.set_grad_enabled(not fixed):
            x = objective.generate(objective.student, z, labels)

        @torch.no_grad()
        def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
            sigma = objective.schedule.sigma(o.t_min + (o.t_max - o.t_min) * u)
            return call(x, sigma, eps, objective.conditions(labels[index]))

        return Upstream(x, residual)

    return pipeline


def refined(module: DMDModule, name: str, effort: Effort) -> NetworkDenoiser:
    """A copy of the fake score that has learned from the frozen student for more updates, by streams of its
    name."""
    objective, o = module.objective, module.options
    fake = copy.deepcopy(objective.fake)
    betas = o.beta1, o.beta2
    adam = torch.optim.AdamW(fake.parameters(), o.fake_lr, betas, weight_decay=o.weight_decay)
    for number in range(effort.updates):
        for group in adam.param_groups:
            group["lr"] = o.fake_lr * (1 + math.cos(math.pi * number / effort.updates)) / 2
        adam.zero_grad()
        loss_of(objective, fake, effort.batch, f"refine {name}", number).backward()
        adam.step()
    return fake


def loss_of(objective: DMDObjective, fake: NetworkDenoiser, batch: int, name: str, number: int) -> Tensor:
    """A fake score's loss on new samples, so many times the run's own batch."""
    losses = []
    for part in range(batch):
        own = stream("lag", name, number, part)
        x, cond = objective.student_samples(own)
        drawn = draw(objective.fake_sampler, 1, ALONE, x, own, stream("lag", name, number, part, "shared"))
        sigma, eps = objective.schedule.sigma(drawn.u[:, 0]), drawn.eps[:, 0]
        losses.append(denoising_loss(fake, x, sigma, eps, cond))
    return torch.stack(losses).mean()


@torch.no_grad()
def compared_loss(objective: DMDObjective, fake: NetworkDenoiser, batch: int) -> float:
    """Of samples that no fake score learned from, the same for all."""
    losses = (loss_of(objective, fake, batch, "compare", number).item() for number in range(COMPARED))
    return statistics.fmean(losses)


def measure_states(run: Path, steps: Sequence[int], effort: Effort, folder: Path, workers: int) -> list[Row]:
    """A row for each state and estimator.

    Raises:
        UserError: a state is not among the run's checkpoints.
    """
    missing = set(steps) - {step for _, step in checkpoints_in(run / "checkpoints")}
    if missing:
        raise UserError(
            f"{run} has no checkpoint of update {min(missing)} to look into; remove it to train it anew"
        )
    calls = {
        step: {
            "lag": partial(measure_lag, run, step, effort),
            "gradient": {e: partial(measure_gradient, run, step, e, effort.pairs) for e in ESTIMATORS},
            "scores": {e: partial(measure_scores, run, step, e, effort.pairs) for e in ESTIMATORS},
        }
        for step in steps
    }
    measured = compute(calls, folder / "cache", workers)
    options = config_of(run).dmd
    return [
        row_of(
            step, e, state["gradient"][e], state["scores"][e], state["lag"], horizon(options, UPSTREAM, step)
        )
        for step, state in measured.items()
        for e in ESTIMATORS
    ]


def row_of(step: int, estimator: str, v: PairedVariance, scores: Scores, lag: Lag, updates: float) -> Row:
    """What was measured, and what of it is left after averaging over so many updates."""
    row: Row = {"step": step, "estimator": estimator, "horizon": updates}
    numbers: Mapping[str, Estimate] = {
        "total": v.total(),
        "within": v.within(),
        "signal": v.squared_norm(),
        "teacher": scores.teacher,
        "difference": scores.difference,
        "lag": lag.error,
        "exact_signal": lag.signal,
    }
    for name, number in numbers.items():
        row |= columns(name, number)
    row |= {"fake_loss": lag.loss, "refined_loss": lag.refined}
    left = noise_left(v.total().value, v.squared_norm(), updates)
    return row | {"noise_left": left.value, "noise_left_least": left.least}
