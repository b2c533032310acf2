"""Variance of a text-to-image student's gradient at two checkpoints, under reuse and under strata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from carv_distill.carv import NoiseLevelSampler, Proposal
from carv_distill.variance import Estimate, PairedVariance, analyse, analysis_dict, measure_pairs, scaled
from studies.cached import compute
from studies.gradient import load_gradient, one_thread, price
from studies.intervals import pooled_ratio, resolved_ratio
from studies.sentences import estimate, sentence
from studies.study import Row, columns

UPSTREAM = 8
ARMS = {"(8,1) iid": (1, "iid"), "(8,16) iid": (16, "iid"), "(8,16) stratified": (16, "stratified")}
"""K and strategy; the first is the baseline."""
PARTS = ("total", "within", "between")
State = Mapping[str, PairedVariance]
"""Of every arm, on the same student samples."""


def measure_states(
    run: Path, steps: Sequence[int], pairs: int, folder: Path, workers: int
) -> dict[int, State]:
    """Every arm at every checkpoint."""
    calls = {step: {arm: partial(_measure, run, step, arm, pairs) for arm in ARMS} for step in steps}
    measured: dict[int, State] = compute(calls, folder / "cache", workers)
    return measured


def _measure(run: Path, step: int, arm: str, pairs: int) -> PairedVariance:
    g, (draws, strategy) = load_gradient(run, step), ARMS[arm]
    sampler = NoiseLevelSampler(Proposal.uniform(g.sampler.proposal.bins), strategy)
    return measure_pairs(g.pipeline, g.parameters, sampler, UPSTREAM, draws, pairs, g.seed)


def seconds_of_arms(run: Path, repeats: int) -> dict[str, float]:
    """Of one gradient of every arm, on one thread."""
    gradient = load_gradient(run)
    with one_thread():
        return {arm: price(gradient, UPSTREAM, k, repeats)(UPSTREAM, k) for arm, (k, _) in ARMS.items()}


def state_rows(states: Mapping[int, State]) -> list[Row]:
    """A row per state and arm: the variance and its parts, and ‖E g‖²."""
    rows = []
    for step, state in states.items():
        for arm, v in state.items():
            row: Row = {"step": step, "arm": arm}
            for part in (*PARTS, "squared_norm"):
                row |= columns(part, getattr(v, part)())
            rows.append(row)
    return rows


def ratio_rows(states: Mapping[int, State], seconds: Mapping[str, float]) -> list[Row]:
    """A row per arm: the baseline's variance over its own, pooled over the states, its seconds, and effective
    compute, which is the ratio of totals times that of seconds (whose error is not in the interval)."""
    base, *others = ARMS
    rows = []
    for arm in others:
        ratios = {part: _ratio(states, base, arm, part) for part in ("total", "within")}
        effective = scaled(ratios["total"], seconds[base] / seconds[arm])
        row: Row = {"arm": arm, "seconds_over_baseline": seconds[arm] / seconds[base]}
        for name, value in {**ratios, "effective_compute": effective}.items():
            row |= columns(name, value)
        rows.append(row)
    return rows


def _ratio(states: Mapping[int, State], a: str, b: str, part: str) -> Estimate:
    return pooled_ratio([(getattr(s[a], part)(), getattr(s[b], part)()) for s in states.values()])


def strata_over_iid(states: Mapping[int, State]) -> Estimate:
    """Variance of (8,16) iid over (8,16) stratified, the student's samples fixed, pooled over the states."""
    _, iid, strata = ARMS
    return _ratio(states, iid, strata, "within")


def sentences(states: Mapping[int, State], rows: Sequence[Row]) -> list[str]:
    """What was measured, a sentence per arm and one on the parts."""
    names = {"total": "total", "samples fixed": "within", "effective compute": "effective_compute"}
    said = [
        sentence(
            f"{row['arm']}, variance of (8,1) iid over its own",
            {name: estimate(row, key) for name, key in names.items()},
            1,
        )
        for row in rows
    ]
    strata = {"samples fixed": strata_over_iid(states)}
    return [*said, sentence("(8,16), variance of iid over stratified", strata, 1), _parts(states)]


def _parts(states: Mapping[int, State]) -> str:
    of_base = [state[next(iter(ARMS))] for state in states.values()]
    said = "Variance within over between student samples, of a single draw"
    pooled = resolved_ratio([(v.within(), v.between()) for v in of_base])
    if pooled is None:
        return f"{said}: not resolved."
    return sentence(said, {"pooled over the states": pooled})


def advise(run: Path, quick: bool, folder: Path, workers: int) -> Row:
    """What `evaluate.py variance` says of the finished run: its conclusions, the advice and what it gave."""
    (said,) = compute([partial(_advice, run, quick)], folder / "cache", workers)
    best = said["advised"]
    advice = {key: said["advice"][best][key] for key in ("upstream", "draws", "ecm")}
    kept = {key: said[key] for key in ("step", "own", "check", "conclusions")}
    return {**kept, "kappa": said["cost"]["kappa"], "advised": {"sampler": best, **advice}}


def _advice(run: Path, quick: bool) -> dict[str, Any]:
    few: dict[str, Any] = {"draws": (1, 2, 4), "pairs": 4, "budget_upstreams": 4} if quick else {}
    return analysis_dict(analyse(load_gradient(run), **few))
