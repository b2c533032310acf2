"""Intervals of comparisons: treatments over the same seeds, and ratios of variances pooled over states."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from carv_distill.variance import Estimate
from carv_distill.variance.estimate import normal_quantile, student

Pairs = Sequence[tuple[Estimate, Estimate]]
"""One numerator and denominator from each state, means over the same replicates."""


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
    se, quantile = math.sqrt(2 * squares / degrees / seeds), 1 - (1 - level) / 2 / len(pairs)
    return {(a, b): student(of_name[a] - of_name[b], se, degrees, quantile) for a, b in pairs}


def paired_differences(
    values: Mapping[str, Sequence[float]], pairs: Sequence[tuple[str, str]], level: float = 0.95
) -> dict[tuple[str, str], Estimate]:
    """mean(a) − mean(b) for each pair (a, b), with the intervals of Student's paired test over n seeds, n − 1
    degrees of freedom, that hold for all pairs at once (Bonferroni).

    Unlike :func:`block_differences` it takes no variance for that of another pair: what treatments that
    scatter unlike each other need, at the price of few degrees of freedom.

    Raises:
        ValueError: fewer than two seeds, or not as many for both of a pair.
    """
    quantile, found = 1 - (1 - level) / 2 / len(pairs), {}
    for a, b in pairs:
        n = len(values[a])
        if n < 2 or len(values[b]) != n:
            raise ValueError(f"pairs need two seeds, as many of each; found {n} and {len(values[b])}")
        apart = [x - y for x, y in zip(values[a], values[b], strict=True)]
        se = statistics.stdev(apart) / math.sqrt(n)
        found[a, b] = student(statistics.fmean(apart), se, n - 1, quantile)
    return found


def exponential(e: Estimate) -> Estimate:
    """e^estimate, with its interval: a ratio from a difference of logarithms."""
    value = math.exp(e.value)
    return Estimate(value, value * e.se, math.exp(e.low), math.exp(e.high))


def pooled_ratio(pairs: Pairs, level: float = 0.95) -> Estimate:
    """Geometric mean over states of a/b.

    All states and both sides share the replicates' random numbers, so that the i-th terms of all of them
    belong together. The standard error is the jackknife's over i of the pooled logarithm, as few and skewed
    terms want it (:func:`~carv_distill.variance.paired_ratio`), and the interval Student's with n − 1 degrees
    of freedom; where a sum without one of its terms is not positive, the first order's. The interval is about
    these states: it does not know how others would differ.

    Raises:
        ValueError: not the same number of terms everywhere, at least two, or a mean that is not positive.
    """
    terms = []
    for a, b in pairs:
        if a.value <= 0 or b.value <= 0:
            raise ValueError(f"a pooled ratio needs positive means, found {a.value} and {b.value}")
        terms.append([x / a.value - y / b.value for x, y in zip(a.terms, b.terms, strict=True)])
    mean = statistics.fmean(math.log(a.value / b.value) for a, b in pairs)
    first = _joint(mean, terms, level)
    left = [[[math.fsum(e.terms) - t for t in e.terms] for e in pair] for pair in pairs]
    if min(min(sums) for pair in left for sums in pair) <= 0:
        return exponential(first)
    n = len(left[0][0])
    logs = [statistics.fmean(math.log(x[i] / y[i]) for x, y in left) for i in range(n)]
    middle = statistics.fmean(logs)
    se = math.sqrt((n - 1) / n * math.fsum((log - middle) ** 2 for log in logs))
    return exponential(student(mean, se, n - 1, (1 + level) / 2))


def independent_ratio(pairs: Pairs, level: float = 0.95) -> Estimate:
    """Geometric mean over states of a/b where all means were measured apart from each other; to first order,
    with the normal quantile."""
    mean = statistics.fmean(math.log(a.value / b.value) for a, b in pairs)
    se = math.sqrt(math.fsum((e.se / e.value) ** 2 for pair in pairs for e in pair)) / len(pairs)
    half = normal_quantile((1 + level) / 2) * se
    return exponential(Estimate(mean, se, mean - half, mean + half))


def resolved_ratio(
    pairs: Pairs, ratio_of: Callable[[Pairs], Estimate] = independent_ratio
) -> Estimate | None:
    """A ratio over states; None where a mean is not told from 0, as a ratio to it then says nothing.

    Args:
        ratio_of: :func:`pooled_ratio` where states share their random numbers.
    """
    if any(e.low <= 0 for pair in pairs for e in pair):
        return None
    return ratio_of(pairs)


def least_ratio(pairs: Pairs) -> float:
    """Geometric mean over states of the least that a/b may be: a's lower end over b's upper. A bound for the
    pooled ratio that is on the safe side, and needs no b that is told from 0."""
    return math.exp(statistics.fmean(math.log(max(a.low, 1e-300) / b.high) for a, b in pairs))


def pooled_mean(pairs: Pairs, level: float = 0.95) -> Estimate:
    """Mean over states of a/b, b > 0, where a may lie below zero; otherwise as :func:`pooled_ratio`."""
    ratios = [a.value / b.value for a, b in pairs]
    terms = [
        [(x - ratio * y) / b.value for x, y in zip(a.terms, b.terms, strict=True)]
        for (a, b), ratio in zip(pairs, ratios, strict=True)
    ]
    return _joint(statistics.fmean(ratios), terms, level)


def _joint(value: float, terms: Sequence[Sequence[float]], level: float) -> Estimate:
    """A mean over states and replicates, whose error is that of the terms' mean."""
    joint = [statistics.fmean(column) for column in zip(*terms, strict=True)]
    n = len(joint)
    if n < 2:
        raise ValueError(f"an interval needs at least two replicates, found {n}")
    return student(value, statistics.stdev(joint) / math.sqrt(n), n - 1, (1 + level) / 2)
