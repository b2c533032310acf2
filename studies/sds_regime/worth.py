"""What reuse, importance and strata are worth in text-to-3D from the wild teacher, at their own seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from studies.cached import compute
from studies.gradient import one_thread, price
from studies.intervals import independent_ratio, pooled_ratio
from studies.sds_regime.cells import Cell, load
from studies.sentences import estimate, sentence, show
from studies.study import Row, columns

DRAWS = (1, 2, 4, 8, 16)
STEPS = (150, 1000)
AT = 8
"""K of the paper's table."""
DEFENSIVE = 0.1
PAPER = {"uniform": 2.6, "IW": 3.0, "Strat": 3.0, "IW+Strat": 3.3}
"""Effective compute at K = 8 against (2, 1) uniform (arXiv 2605.21489)."""


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
    return dict(zip(cells, compute(calls, folder / "cache", workers), strict=True))


def confirm(folder: Path, cell: Cell, arm: str, draws: int, pairs: int) -> tuple[Estimate, Estimate]:
    """Variance of uniform (1, 1) and of a sampler at K, measured anew: the greatest of many is too great by
    chance. Uniform, cheaper and noisier, has four times the pairs."""
    g = load(folder, cell)
    assert g.importance is not None
    own, face = stream(g.seed, cell.step, "worth", "profile"), (g.pipeline, g.parameters)
    neyman = NoiseLevelProfile.measure(*face, own, 16, 32).neyman(DEFENSIVE)
    samplers = {a.name: a.sampler for a in standard_arms(g.importance(DEFENSIVE), neyman)}
    seed = int(torch.randint(2**31, (), generator=stream(cell.prompt, cell.step, "worth again")))
    plain = measure_pairs(*face, samplers["uniform"], 1, 1, 4 * pairs, seed=seed)
    chosen = measure_pairs(*face, samplers[arm], 1, draws, pairs, seed=seed + 1)
    return plain.total(), chosen.total()


def confirm_all(
    folder: Path, cells: Sequence[Cell], rows: Sequence[Row], pairs: int, workers: int
) -> Estimate:
    """Effective compute of the best row, from variances measured anew."""
    best = best_of(rows)
    calls = [partial(confirm, folder, cell, best["sampler"], best["draws"], pairs) for cell in cells]
    again: list[tuple[Estimate, Estimate]] = compute(calls, folder / "cache", workers)
    return scaled(independent_ratio(again), best["price_of_one"])


def best_of(rows: Sequence[Row]) -> Row:
    """The sampler and K of the greatest effective compute."""
    return max(rows, key=lambda row: row["effective_compute"])


def prices(folder: Path, cell: Cell, repeats: int) -> dict[int, float]:
    """Seconds of one gradient at R = 1 by K, one thread, each timed at its own batch."""
    g = load(folder, cell)
    with one_thread():
        return {k: price(g, 1, k, repeats)(1, k) for k in DRAWS}


def rows_of(measured: Mapping[Cell, Comparison], seconds: Mapping[int, float]) -> list[Row]:
    """A row for every sampler and K, pooled over the cells: relative efficiency at equal K, and effective
    compute against uniform (1, 1), which is that against (2, 1) too. Errors of the seconds are not in it."""
    first = next(iter(measured.values()))
    rows = []
    for arm in first.arms():
        for k in DRAWS:
            found = [(c.base.total, c.row(arm, k).total) for c in measured.values()]
            equal = [(c.row("uniform", k).total, c.row(arm, k).total) for c in measured.values()]
            effective = scaled(pooled_ratio(found), seconds[1] / seconds[k])
            row: Row = {"sampler": arm, "draws": k, **columns("effective_compute", effective)}
            row["price_of_one"] = seconds[1] / seconds[k]
            row |= columns("relative_efficiency", pooled_ratio(equal))
            rows.append(row | ({"paper": PAPER[arm]} if k == AT and arm in PAPER else {}))
    return rows


def above_reuse(measured: Mapping[Cell, Comparison]) -> Estimate:
    """Variance of uniform over that of IW+Strat at K = 8, paired and pooled."""
    return pooled_ratio(
        [(c.row("uniform", AT).total, c.row("IW+Strat", AT).total) for c in measured.values()]
    )


def verdict(rows: Sequence[Row], measured: Mapping[Cell, Comparison], again: Estimate) -> list[str]:
    """The figures at K = 8 beside the paper's, and the best sampler and K, as chosen and measured anew."""
    at = [row for row in rows if row["draws"] == AT]
    shown = ", ".join(
        f"{row['sampler']} {show(estimate(row, 'effective_compute'))}"
        + (f" (paper {row['paper']})" if "paper" in row else "")
        for row in at
    )
    best = best_of(rows)
    pair = sentence("Variance of uniform over IW+Strat at K = 8", {"paired": above_reuse(measured)}, 1)
    chosen = show(estimate(best, "effective_compute"))
    top = f"Best: {best['sampler']}, K = {best['draws']}: {chosen}; measured anew {show(again)}."
    return [f"Effective compute at K = 8 against uniform (1, 1) or (2, 1), own seconds: {shown}.", pair, top]
