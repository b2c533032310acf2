"""The pilot: how long to train, at what rates, and which R costs or scatters as (8,16) does.

On seeds that the study does not use, and on a machine without other work. Prices stay in
`<data>-prices.json`, so that a study that goes on has the same arms.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from carv_distill.carv import stream
from carv_distill.errors import UserError
from carv_distill.variance import NoiseParity, VarianceBudget
from studies.cached import once
from studies.dmd_gap.arms import (
    BASE,
    BEST,
    DRAWS,
    LONGER,
    REUSE,
    UPSTREAM,
    Arm,
    Plan,
    estimator_words,
    make_arms,
)
from studies.dmd_gap.settings import STATES, Setting
from studies.gradient import load_gradient, one_thread, price
from studies.runs import TrainingRun, levels, seconds_per_update, train_all
from studies.study import Row

SAME = 1.05
"""Two FIDs within this factor count as alike."""


def pilot(setting: Setting, folder: Path, workers: int, digits: Path) -> tuple[Plan, list[Row]]:
    """The plan of a study, and the FIDs that it rests on.

    Args:
        digits: what the pilot on digits left, whose rates other data sets take.

    Raises:
        UserError: these are wanted and not there, or the prices are of another length.
    """
    chosen = None if setting.own_factors else factors_on_digits(digits)
    fids = try_lengths(setting, folder, workers)
    updates = choose_length(fids)
    rows: list[Row] = [{"what": "updates", "updates": n, "fid": fid} for n, fid in fids.items()]
    run = folder / length_run(setting, updates, setting.pilot_seeds[0]).name
    prices = folder / f"{setting.name}-prices.json"
    plan = once(prices, Plan, lambda: make_plan(setting, run, updates, folder))
    if plan.updates != updates:
        raise UserError(
            f"{prices}: of trainings of {plan.updates} updates, now {updates}; remove it to time them anew"
        )
    if chosen is None and len(setting.factors) == 1:
        chosen = [*setting.factors] * 3
    elif chosen is None:
        tried = try_rates(setting, plan, folder, workers)
        for arm, of_factor in tried.items():
            rows += [{"what": "rate", "arm": arm, "factor": f, "fid": fid} for f, fid in of_factor.items()]
        chosen = [choose_factor(of_factor) for of_factor in tried.values()]
    base, reuse, more = chosen
    return replace(plan, base_factor=base, reuse_factor=reuse, more_factor=more), rows


def length_run(setting: Setting, updates: int, seed: int) -> TrainingRun:
    """(8,16) iid at the configuration's rates for so many updates."""
    arm = Arm(f"pilot {updates}", setting, estimator_words(UPSTREAM, DRAWS, "iid"), updates, math.nan, 1.0)
    return arm.run(seed, kept=2 * STATES)


def try_lengths(setting: Setting, folder: Path, workers: int) -> dict[int, float]:
    """Updates → final FID, mean over the pilot's seeds."""
    runs = {n: [length_run(setting, n, seed) for seed in setting.pilot_seeds] for n in setting.lengths}
    first, *others = [run for n in reversed(setting.lengths) for run in runs[n]]
    train_all([first], setting.config, folder, workers, setting.ranges, teacher=setting.levels is None)
    train_all(others, setting.config, folder, workers, setting.ranges)
    return {n: statistics.fmean(run.fid(folder) for run in of) for n, of in runs.items()}


def levels_of(setting: Setting, folder: Path) -> dict[str, float]:
    """FID of the teacher and of the floor: known, or by the first run of the pilot."""
    first = length_run(setting, setting.lengths[-1], setting.pilot_seeds[0])
    return levels(setting.levels or folder / first.name / "fid.json")


def choose_length(fids: Mapping[int, float]) -> int:
    """The least number of updates whose FID is at most 5 % above that of the next; else the largest."""
    lengths = sorted(fids)
    for shorter, longer in pairwise(lengths):
        if fids[shorter] <= SAME * fids[longer]:
            return shorter
    return lengths[-1]


def make_plan(setting: Setting, run: Path, updates: int, folder: Path) -> Plan:
    """R′ by the prices of gradients on one thread at the end of the pilot's run, R″ by the parts of the
    variance after a quarter of it, the parity of its noise, and the seconds of an update of every arm."""
    timing, gradient = setting.timing, load_gradient(run)
    key = stream("parity", gradient.step)
    parity = NoiseParity.measure(
        gradient.pipeline, gradient.parameters, key, upstreams=timing.parity, draws=16
    )

    def seconds(upstream: int, draws: int) -> float:
        return price(gradient, upstream, draws, timing.repeats)(upstream, draws)

    with one_thread():
        reuse = seconds(UPSTREAM, DRAWS)
        upstream = equal_upstream(reuse, lambda r: seconds(r, 1), UPSTREAM, UPSTREAM * (DRAWS + 1))
    equal = equal_variance(run, updates // 4, timing.upstreams)
    return timed(setting, Plan(updates, upstream, equal, parity.gate(), *[math.nan] * 5), folder)


def timed(setting: Setting, plan: Plan, folder: Path) -> Plan:
    """With the seconds of an update of each arm, all that a training does included but the measurements:
    medians of short trainings, one after the other."""
    arms = {arm.name: arm for arm in make_arms(setting, replace(plan, base=1.0, reuse=1.0))}

    def seconds(name: str) -> float:
        short = replace(arms[name], name=f"pilot seconds {name}", updates=setting.timing.updates, traced=())
        words = ("variance.every=0", "trainer.log_every=8", f"checkpoint.every={setting.timing.updates}")
        run = short.run(setting.pilot_seeds[0], *words)
        train_all([run], setting.config, folder, workers=1)
        return seconds_per_update(run.metrics(folder))

    more = seconds(plan.more_name)
    return replace(
        plan,
        base=seconds(BASE),
        reuse=seconds(REUSE),
        more=more,
        less=seconds(plan.equal_name) if plan.equal_name in arms else more,
        best=seconds(BEST),
    )


def equal_upstream(wanted: float, seconds: Callable[[int], float], low: int, high: int) -> int:
    """The largest R in low … high whose gradient takes at most the wanted seconds, by bisection."""
    while low < high:
        middle = (low + high + 1) // 2
        if seconds(middle) <= wanted:
            low = middle
        else:
            high = middle - 1
    return low


def equal_variance(run: Path, step: int, upstreams: int) -> int:
    """R″ whose single draws have the total variance of (8,16): R″ = 8 (B + W)/(B + W/16), at one state."""
    gradient = load_gradient(run, step)
    key = stream("equal", step)
    with one_thread():
        budget = VarianceBudget.measure(gradient.pipeline, gradient.parameters, key, upstreams=upstreams)
    ratio = budget.variance(1, 1) / budget.variance(1, DRAWS)
    return round(UPSTREAM * ratio)


def try_rates(setting: Setting, plan: Plan, folder: Path, workers: int) -> dict[str, dict[float, float]]:
    """Arm → factor of the configuration's rate → final FID, mean over the pilot's seeds; for the longer
    baseline, (8,16) iid and (R′,1)."""
    arms = {arm.name: arm for arm in make_arms(setting, plan)}
    runs = {
        name: {
            factor: [rate_run(arms[name], factor, seed) for seed in setting.pilot_seeds]
            for factor in setting.factors
        }
        for name in (LONGER, REUSE, plan.more_name)
    }
    every = [run for of_arm in runs.values() for of_factor in of_arm.values() for run in of_factor]
    train_all(every, setting.config, folder, workers, setting.ranges, may_diverge=True)
    return {
        name: {f: statistics.fmean(run.fid(folder) for run in of) for f, of in of_arm.items()}
        for name, of_arm in runs.items()
    }


def rate_run(arm: Arm, factor: float, seed: int) -> TrainingRun:
    """The pilot's training of an arm at a factor; of (8,16) iid at the configuration's rate, that of the
    lengths."""
    if arm.name == REUSE and factor == 1:
        return length_run(arm.setting, arm.updates, seed)
    return replace(arm, name=f"pilot {arm.name} {factor:g}", factor=factor).run(seed)


def choose_factor(fids: Mapping[float, float]) -> float:
    """Of all whose FID is within 5 % of the least, the one nearest to 1."""
    least = min(fids.values())
    alike = [factor for factor, fid in fids.items() if fid <= SAME * least]
    return min(alike, key=lambda factor: abs(math.log(factor)))


def factors_on_digits(pilot: Path) -> list[float]:
    """What the pilot on digits chose, for (8,1), (8,16) and (R′,1); from its `digits_pilot.json`."""
    if not pilot.is_file():
        raise UserError(f"{pilot}: not there; the pilot on digits chooses the rates (--data digits)")
    plan = json.loads(pilot.read_text())["plan"]
    return [plan[f"{name}_factor"] for name in ("base", "reuse", "more")]
