"""What reuse, importance and strata are worth in text-to-3D from the wild teacher, at their own seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from carv_distill.carv import stream
from carv_distill.variance import (
    Comparison,
    CostModel,
    Estimate,
    NoiseLevelProfile,
    VarianceBudget,
    compare,
    measure_pairs,
    scaled,
    standard_arms,
)
from studies.cached import compute, once
from studies.intervals import independent_ratio, pooled_ratio
from studies.sds_frontier.prices import measure_prices
from studies.sds_regime.cells import Cell, load, run_of
from studies.sentences import estimate, sentence, show
from studies.study import Row, columns

DRAWS = (1, 2, 4, 8, 16)
STEPS = (150, 1000)
AT = 8
"""K of the paper's table."""
DEFENSIVE = 0.1
BASE = "uniform (1, 1)"
ANEW = ("uniform", "IW+Strat", "best")
"""Samplers that are measured twice: those of which something was hoped for."""
PAPER = {"uniform": 2.6, "IW": 3.0, "Strat": 3.0, "IW+Strat": 3.3}
"""Effective compute at K = 8 against (2, 1) uniform (arXiv 2605.21489)."""


@dataclass(frozen=True)
class Seconds:
    """As they are kept."""

    gradient: dict[str, float]
    """Of "R,K"."""


def measure(folder: Path, cell: Cell, pairs: int) -> Comparison:
    """Every sampler at every K, R = 1; proposals by a pilot that is not in the costs."""
    g = load(folder, cell)
    assert g.importance is not None

    def own(name: str) -> torch.Generator:
        return stream(g.seed, cell.step, "worth", name)

    face = g.pipeline, g.parameters
    budget = VarianceBudget.measure(*face, own("budget"), upstreams=8)
    neyman = NoiseLevelProfile.measure(*face, own("profile"), 16, 32).neyman(DEFENSIVE)
    arms = standard_arms(g.importance(DEFENSIVE), neyman)
    # the prices come with the table: here only variances matter
    return compare(*face, arms, 1, DRAWS, pairs, CostModel.declared(1.0), budget, seed=g.seed)


def measure_all(folder: Path, cells: Sequence[Cell], pairs: int, workers: int) -> dict[Cell, Comparison]:
    """All cells, kept."""
    calls = [partial(measure, folder, cell, pairs) for cell in cells]
    runs = [run_of(folder, cell) for cell in cells]
    return dict(zip(cells, compute(calls, folder / "cache", workers, runs), strict=True))


def confirm(folder: Path, cell: Cell, arms: Sequence[str], draws: int, pairs: int) -> dict[str, Estimate]:
    """Variance of samplers at K and, under BASE, of uniform (1, 1), measured anew: the greatest of many is
    too great by chance. Uniform (1, 1), cheaper and noisier, has four times the pairs."""
    g = load(folder, cell)
    assert g.importance is not None
    own, face = stream(g.seed, cell.step, "worth", "profile"), (g.pipeline, g.parameters)
    neyman = NoiseLevelProfile.measure(*face, own, 16, 32).neyman(DEFENSIVE)
    samplers = {a.name: a.sampler for a in standard_arms(g.importance(DEFENSIVE), neyman)}

    def total(arm: str, draws: int, pairs: int, what: str) -> Estimate:
        seed = int(torch.randint(2**31, (), generator=stream(cell.prompt, cell.step, "worth again", what)))
        return measure_pairs(*face, samplers[arm], 1, draws, pairs, seed=seed).total()

    return {BASE: total("uniform", 1, 4 * pairs, BASE)} | {a: total(a, draws, pairs, a) for a in arms}


def confirm_all(
    folder: Path,
    cells: Sequence[Cell],
    arms: Sequence[str],
    seconds: Mapping[str, float],
    pairs: int,
    workers: int,
) -> list[Row]:
    """Effective compute at K = 8 against uniform (1, 1) and (2, 1), from variances measured anew."""
    calls = [partial(confirm, folder, cell, arms, AT, pairs) for cell in cells]
    runs = [run_of(folder, cell) for cell in cells]
    again: list[dict[str, Estimate]] = compute(calls, folder / "cache", workers, runs)
    rows = []
    for arm in arms:
        gain = independent_ratio([(found[BASE], found[arm]) for found in again])
        row: Row = {"sampler": arm, "draws": AT}
        for against, price in prices_of_one(seconds).items():
            row |= columns(against, scaled(gain, price / seconds[f"1,{AT}"]))
        rows.append(row)
    return rows


def prices_of_one(seconds: Mapping[str, float]) -> dict[str, float]:
    """What uniform (1, 1) costs, and (2, 1) for each of its renders, of which it has half the variance."""
    return {"effective_compute": seconds["1,1"], "effective_compute_2": seconds["2,1"] / 2}


def best_of(rows: Sequence[Row]) -> Row:
    """The sampler and K of the greatest effective compute."""
    return max(rows, key=lambda row: row["effective_compute"])


def prices(folder: Path, cell: Cell, rounds: int) -> dict[str, float]:
    """ "R,K" → seconds of one gradient at (1, K) and at (2, 1), one thread, timed in turns, and kept: a study
    that goes on has the same."""

    def measure() -> Seconds:
        places = [(1, k) for k in DRAWS] + [(2, 1)]
        return Seconds(measure_prices(load(folder, cell), places, rounds).gradient)

    return once(folder / f"seconds-{rounds}.json", Seconds, measure).gradient


def per_render(cells: Sequence[Cell]) -> list[Cell]:
    """The same states with one background and one set of colours for all draws of a render."""
    return [replace(cell, augment="render") for cell in cells]


def rows_of(measured: Mapping[Cell, Comparison], seconds: Mapping[str, float]) -> list[Row]:
    """A row for every sampler and K, pooled over the cells: relative efficiency at equal K, and effective
    compute against uniform (1, 1) and (2, 1), whose two renders cost less than two. Errors of the seconds
    are not in it."""
    first = next(iter(measured.values()))
    rows = []
    for arm in first.arms():
        for k in DRAWS:
            gain = pooled_ratio([(c.base.total, c.row(arm, k).total) for c in measured.values()])
            equal = [(c.row("uniform", k).total, c.row(arm, k).total) for c in measured.values()]
            row: Row = {"sampler": arm, "draws": k}
            for against, price in prices_of_one(seconds).items():
                row |= columns(against, scaled(gain, price / seconds[f"1,{k}"]))
            row |= columns("relative_efficiency", pooled_ratio(equal))
            rows.append(row | ({"paper": PAPER[arm]} if k == AT and arm in PAPER else {}))
    return rows


def above_reuse(measured: Mapping[Cell, Comparison]) -> Estimate:
    """Variance of uniform over that of IW+Strat at K = 8, paired and pooled."""
    return pooled_ratio(
        [(c.row("uniform", AT).total, c.row("IW+Strat", AT).total) for c in measured.values()]
    )


def verdict(
    rows: Sequence[Row],
    measured: Mapping[Cell, Comparison],
    again: Sequence[Row],
    again_per_render: Sequence[Row],
) -> list[str]:
    """The figures at K = 8 beside the paper's, those measured anew, and anew with one picture a render."""
    at = [row for row in rows if row["draws"] == AT]
    said = []
    tables = {"": at, ", measured anew": again, ", one picture per render": again_per_render}
    for what, against in (("(1, 1)", "effective_compute"), ("(2, 1)", "effective_compute_2")):
        for when, table in tables.items():
            shown = ", ".join(
                f"{row['sampler']} {show(estimate(row, against))}"
                + (f" (paper {row['paper']})" if "paper" in row and what == "(2, 1)" else "")
                for row in table
            )
            said.append(f"Effective compute at K = {AT} against uniform {what}, own seconds{when}: {shown}.")
    pair = sentence("Variance of uniform over IW+Strat at K = 8", {"paired": above_reuse(measured)}, 1)
    best = best_of(rows)
    top = f"Greatest: {best['sampler']}, K = {best['draws']}: {show(estimate(best, 'effective_compute'))}."
    return [*said, pair, top]
