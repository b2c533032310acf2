"""Ratios of variances, pooled over states."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from carv_distill.variance import Estimate
from carv_distill.variance.estimate import normal_quantile, t_quantile

Pairs = Sequence[tuple[Estimate, Estimate]]
"""One numerator and denominator from each state, means over the same replicates."""


def pooled_ratio(pairs: Pairs, level: float = 0.95) -> Estimate:
    """Geometric mean over states of a/b.

    All states and both sides share the replicates' random numbers, so that the i-th terms of all of them
    belong together: to first order the logarithm errs by the mean over i of

        z_i = mean_s (a_si/ā_s − b_si/b̄_s),

    whose spread over the n independent i gives Student's interval with n − 1 degrees of freedom. The interval
    is about these states: it does not know how others would differ.

    Raises:
        ValueError: not the same number of terms everywhere, at least two, or a mean that is not positive.
    """
    terms = []
    for a, b in pairs:
        if a.value <= 0 or b.value <= 0:
            raise ValueError(f"a pooled ratio needs positive means, found {a.value} and {b.value}")
        terms.append([x / a.value - y / b.value for x, y in zip(a.terms, b.terms, strict=True)])
    mean = statistics.fmean(math.log(a.value / b.value) for a, b in pairs)
    half, se = _spread(terms, level)
    value = math.exp(mean)
    return Estimate(value, value * se, value * math.exp(-half), value * math.exp(half))


def independent_ratio(pairs: Pairs, level: float = 0.95) -> Estimate:
    """Geometric mean over states of a/b where all means were measured apart from each other; to first order,
    with the normal quantile."""
    logs = [math.log(a.value / b.value) for a, b in pairs]
    squares = math.fsum((e.se / e.value) ** 2 for pair in pairs for e in pair)
    se = math.sqrt(squares) / len(logs)
    half = normal_quantile((1 + level) / 2) * se
    value = math.exp(statistics.fmean(logs))
    return Estimate(value, value * se, value * math.exp(-half), value * math.exp(half))


def pooled_mean(pairs: Pairs, level: float = 0.95) -> Estimate:
    """Mean over states of a/b, b > 0, where a may lie below zero; otherwise as :func:`pooled_ratio`."""
    ratios = [a.value / b.value for a, b in pairs]
    terms = [
        [(x - ratio * y) / b.value for x, y in zip(a.terms, b.terms, strict=True)]
        for (a, b), ratio in zip(pairs, ratios, strict=True)
    ]
    value, (half, se) = statistics.fmean(ratios), _spread(terms, level)
    return Estimate(value, se, value - half, value + half)


def _spread(terms: Sequence[Sequence[float]], level: float) -> tuple[float, float]:
    """(half width of the interval, standard error) of the mean over states and replicates."""
    joint = [statistics.fmean(column) for column in zip(*terms, strict=True)]
    n = len(joint)
    if n < 2:
        raise ValueError(f"an interval needs at least two replicates, found {n}")
    se = statistics.stdev(joint) / math.sqrt(n)
    return t_quantile((1 + level) / 2, n - 1) * se, se
