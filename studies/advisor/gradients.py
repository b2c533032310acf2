"""The prediction for a trained run, and the same settings measured anew."""

from __future__ import annotations

from pathlib import Path

from carv_distill.carv import NoiseLevelSampler
from carv_distill.variance import (
    CostModel,
    Estimate,
    MeasuredGradient,
    StageTimer,
    analyse,
    measure_pairs,
    paired_ratio,
    scaled,
    time_stages,
)
from studies.advisor.cases import Prediction, Sizes
from studies.gradient import load_gradient


def predict(run: Path, sizes: Sizes) -> Prediction:
    """Analyses a finished run and measures the advice on other random streams."""
    gradient = load_gradient(run, regularised=True)
    a = analyse(gradient, None, sizes.draws, sizes.pairs, sizes.upstreams)
    advice, c = a.advice[a.best], a.comparison
    samplers = {row.arm: row.sampler for row in c.rows}
    base, own = (c.base.upstream, c.base.draws), (advice.upstream, advice.draws)
    there, here = (
        measure_anew(gradient, samplers[arm], *at, sizes.fresh)
        for arm, at in ((c.base.arm, base), (a.best, own))
    )
    seconds = [
        seconds_of(gradient, samplers[arm], *at, sizes.rounds)
        for arm, at in ((c.base.arm, base), (a.best, own))
    ]
    less = paired_ratio(there, here)
    price = c.cost(*own) / c.cost(*base), seconds[1] / seconds[0]
    return Prediction(
        sampler=a.best,
        setting=own,
        base=base,
        predicted=a.predicted,
        measured=scaled(less, 1 / price[1]),
        variance=(advice.ecm * price[0], less.value),
        seconds=price,
    )


def measure_anew(
    gradient: MeasuredGradient, sampler: NoiseLevelSampler, upstream: int, draws: int, pairs: int
) -> Estimate:
    """Total variance at (R, K), on streams that no analysis of the run has. Two settings have them in common,
    pair by pair, as far as R goes: so their terms are paired."""
    seed = gradient.seed + 104729
    return measure_pairs(gradient.sample, gradient.parameters, sampler, upstream, draws, pairs, seed).total()


def seconds_of(
    gradient: MeasuredGradient, sampler: NoiseLevelSampler, upstream: int, draws: int, rounds: int
) -> float:
    """Of an iteration at just this (R, K), with what it does besides its gradient."""
    timer = StageTimer(gradient.device)
    with gradient.context():
        gradient.time_other(timer)
    time_stages(gradient.sample, gradient.parameters, sampler, upstream, draws, timer, rounds)
    return CostModel.measured(timer)(upstream, draws)
