"""W/B of exact teachers by their spread, what it is worth, and whether quality follows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from carv_distill.carv import stream
from carv_distill.variance import CostModel, VarianceBudget, mean_estimate
from studies.cached import compute
from studies.intervals import exponential, pooled_ratio, resolved_ratio
from studies.sds_entropy.gaussian import GaussianTeacher, train
from studies.sentences import estimate, show, show_column
from studies.study import Row, columns

SPREADS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 0.95)
OBJECTS = (("torus", "yellow"), ("cone", "red"))
STATES = (50, 150)
KAPPA = 4.0
DRAWS = (1, 2, 4, 8, 16, 32, 64)
ARMS = {"(4,1)": (4, 1, 1), "(1,16)": (1, 16, 1), "(1,1)": (1, 1, 4)}
"""R, K, and steps for one of the others': all cost 20 draws, at κ = 4."""
EVERY = 20


def measure_budget(solid: str, colour: str, spread: float, step: int, upstreams: int) -> VarianceBudget:
    """Of a single draw, after so many steps."""
    teacher = GaussianTeacher(solid, colour, spread)
    scene, _ = train(teacher, 1, 16, step, 0, step)
    parameters = list(scene.parameters())
    return VarianceBudget.measure(
        teacher.pipeline(scene), parameters, stream("entropy", step), None, upstreams, 4, 2
    )


def race(solid: str, colour: str, spread: float, arm: str, steps: int, seed: int) -> list[float]:
    """Errors along a training; steps are those of (4,1)."""
    upstream, draws, times = ARMS[arm]
    return train(GaussianTeacher(solid, colour, spread), upstream, draws, steps * times, seed, EVERY * times)[
        1
    ]


def budgets(quick: bool, folder: Path, workers: int) -> dict[float, list[VarianceBudget]]:
    """By spread: every object and state."""
    upstreams, states = (12, STATES[:1]) if quick else (120, STATES)
    calls = {
        spread: [partial(measure_budget, *o, spread, step, upstreams) for o in OBJECTS for step in states]
        for spread in (SPREADS[2::4] if quick else SPREADS)
    }
    measured: dict[float, list[VarianceBudget]] = compute(calls, folder / "cache", workers)
    return measured


def races(
    steps: int, seeds: Sequence[int], spreads: Sequence[float], folder: Path, workers: int
) -> dict[float, dict[str, list[list[float]]]]:
    """By spread and arm: the errors of every object and seed."""
    calls = {
        spread: {
            arm: [partial(race, *o, spread, arm, steps, seed) for o in OBJECTS for seed in seeds]
            for arm in ARMS
        }
        for spread in spreads
    }
    measured: dict[float, dict[str, list[list[float]]]] = compute(calls, folder / "cache", workers)
    return measured


def regime_rows(measured: Mapping[float, Sequence[VarianceBudget]]) -> list[Row]:
    """By spread: W/B (geometric mean over objects and states, which share their random numbers; none where a
    B is not told from 0), the greatest effective compute of (1, K) at κ = 4 and its K."""
    cost, rows = CostModel.declared(KAPPA), []
    for spread, found in measured.items():
        row: Row = {"spread": spread}
        pairs = [(b.within, b.between) for b in found]
        if (place := resolved_ratio(pairs, pooled_ratio)) is not None:
            row |= columns("within_over_between", place)
        worth = {k: statistics.geometric_mean(_worth(b, cost, k) for b in found) for k in DRAWS}
        best = max(worth, key=lambda k: worth[k])
        row |= {f"ecm_{k}": round(worth[k], 3) for k in DRAWS} | {"best_draws": best, "best_ecm": worth[best]}
        share = statistics.fmean(b.squared_norm.value / b.total.value for b in found)
        rows.append({**row, "signal_over_noise": share})
    return rows


def _worth(b: VarianceBudget, cost: CostModel, draws: int) -> float:
    return b.variance(1, 1) * cost(1, 1) / (b.variance(1, draws) * cost(1, draws))


def quality_rows(measured: Mapping[float, Mapping[str, Sequence[Sequence[float]]]]) -> list[Row]:
    """By spread and arm: the error over the last third, and its ratio to that of (4,1), paired."""
    rows = []
    for spread, arms in measured.items():
        logs = {arm: [math.log(_late(errors)) for errors in runs] for arm, runs in arms.items()}
        for arm, values in logs.items():
            row: Row = {"spread": spread, "arm": arm, **columns("error", exponential(mean_estimate(values)))}
            if arm != "(4,1)":
                apart = [a - b for a, b in zip(values, logs["(4,1)"], strict=True)]
                row |= columns("over_4_1", exponential(mean_estimate(apart)))
            rows.append(row)
    return rows


def _late(errors: Sequence[float]) -> float:
    return statistics.fmean(errors[2 * len(errors) // 3 :])


def sentences(regime: Sequence[Row], quality: Sequence[Row]) -> list[str]:
    """A line for every spread."""
    said = []
    for row in regime:
        line = (
            f"spread {row['spread']}: W/B {_shown(row)}, effective compute "
            f"{row['best_ecm']:.2f} at K = {row['best_draws']}"
        )
        for other in quality:
            if other["spread"] == row["spread"] and "over_4_1" in other:
                line += f"; error of {other['arm']} over (4,1) {show(estimate(other, 'over_4_1'))}"
        said.append(line + ".")
    return said


def _shown(row: Row) -> str:
    return show_column(row, "within_over_between") if "within_over_between" in row else "not resolved"
