"""Treatments compared over the same seeds: an analysis of variance with seeds as blocks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from scipy import stats

from carv_distill.variance import Estimate


def block_differences(
    values: Mapping[str, Sequence[float]], pairs: Sequence[tuple[str, str]], level: float = 0.95
) -> dict[tuple[str, str], Estimate]:
    """mean(a) − mean(b) for each pair (a, b), with intervals that hold for all pairs at once.

    Model: value = treatment + seed + error, errors of one variance for all treatments; it is estimated from
    all of them, with (treatments − 1)(seeds − 1) degrees of freedom. Bonferroni over the pairs: in at least
    `level` of all studies every interval holds its truth.

    Args:
        values: treatment → one value per seed, in one order of the seeds.
        pairs: treatments to compare.

    Raises:
        ValueError: fewer than two treatments or seeds, or not as many seeds for each.

    Source: randomised blocks, e.g. Montgomery, Design and Analysis of Experiments, chapter 4.
    """
    names, seeds = list(values), len(next(iter(values.values()), ()))
    if len(names) < 2 or seeds < 2 or any(len(v) != seeds for v in values.values()):
        raise ValueError(f"blocks need two treatments and two seeds of each, found {len(names)} and {seeds}")
    of_seed = [statistics.fmean(values[name][s] for name in names) for s in range(seeds)]
    of_name = {name: statistics.fmean(values[name]) for name in names}
    whole = statistics.fmean(of_seed)
    degrees = (len(names) - 1) * (seeds - 1)
    squares = math.fsum(
        (values[name][s] - of_name[name] - of_seed[s] + whole) ** 2 for name in names for s in range(seeds)
    )
    se = math.sqrt(2 * squares / degrees / seeds)
    half = se * float(stats.t.ppf(1 - (1 - level) / 2 / len(pairs), degrees))
    found = {}
    for a, b in pairs:
        difference = of_name[a] - of_name[b]
        found[a, b] = Estimate(difference, se, difference - half, difference + half)
    return found


def exponential(e: Estimate) -> Estimate:
    """e^estimate, with its interval: a ratio from a difference of logarithms."""
    value = math.exp(e.value)
    return Estimate(value, value * e.se, math.exp(e.low), math.exp(e.high))
