"""Numbers with intervals: means of independent terms, and ratios of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error and its confidence interval."""

    value: float
    se: float
    low: float
    high: float
    terms: tuple[float, ...] = field(default=(), repr=False, compare=False)
    """The independent terms whose mean it is, where it is one: what :func:`paired_ratio` needs."""


def require_at_least(least: int, **counts: int) -> None:
    """Refuses a count below the least one with a ValueError that names it."""
    for name, count in counts.items():
        if count < least:
            raise ValueError(f"{name} must be at least {least}, found {count}")


def mean_estimate(terms: Sequence[float], level: float = 0.95, positive: bool = False) -> Estimate:
    """Mean of independent terms with Student's interval; of a positive quantity on the logarithmic scale.

    The level is nominal: heavy-tailed terms cover less when there are few. In resamples of the digits
    student's pairs, 8 to 16 of them, the variance of single draws was covered in about 87 %, that of 16
    stratified draws in 92 %.

    Raises:
        ValueError: no terms. With a single one, standard error and interval are NaN.
    """
    n = len(terms)
    if not n:
        raise ValueError("an estimate needs at least one term, found none")
    mean = math.fsum(terms) / n
    if n < 2:
        return Estimate(mean, math.nan, math.nan, math.nan, tuple(terms))
    se = math.sqrt(math.fsum((t - mean) ** 2 for t in terms) / (n - 1) / n)
    low, high = _interval(mean, se, t_quantile((1 + level) / 2, n - 1), positive and mean > 0)
    return Estimate(mean, se, low, high, tuple(terms))


def ratio(a: Estimate, b: Estimate, level: float = 0.95) -> Estimate:
    """a/b, b > 0, with the first-order interval of independent estimates (logarithmic where a > 0).

    Where a and b share upstream draws they are positively correlated, and the interval is too wide: then
    see :func:`paired_ratio`.
    """
    value = a.value / b.value
    se = math.hypot(a.se, value * b.se) / b.value
    low, high = _interval(value, se, normal_quantile((1 + level) / 2), a.low > 0)
    return Estimate(value, se, low, high)


def paired_ratio(a: Estimate, b: Estimate, level: float = 0.95) -> Estimate:
    """ā/b̄ of two means whose i-th terms were measured on the same upstream draws.

    First order: the terms (a_i − ρ b_i)/b̄ with ρ = ā/b̄ have the ratio's error as their mean, so what
    the two have in common cancels. Logarithmic interval, as both are positive.

    Raises:
        ValueError: a and b have not the same number of terms, at least two.
    """
    n = len(a.terms)
    if n < 2 or n != len(b.terms):
        raise ValueError(f"a paired ratio needs as many terms on both sides, found {n} and {len(b.terms)}")
    value = a.value / b.value
    squares = math.fsum((x - value * y) ** 2 for x, y in zip(a.terms, b.terms, strict=True))
    se = math.sqrt(squares / (n - 1) / n) / b.value
    low, high = _interval(value, se, t_quantile((1 + level) / 2, n - 1), value > 0)
    return Estimate(value, se, low, high)


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """factor · estimate, factor > 0."""
    e = estimate
    terms = tuple(t * factor for t in e.terms)
    return Estimate(e.value * factor, e.se * factor, e.low * factor, e.high * factor, terms)


def normal_quantile(p: float) -> float:
    """Where the standard normal's distribution function is p."""
    return NormalDist().inv_cdf(p)


def t_quantile(p: float, freedom: float) -> float:
    """Where the distribution function of Student's t is p."""
    from scipy.special import stdtrit  # loads for a third of a second, and only intervals need it

    return float(stdtrit(freedom, p))


def _interval(value: float, se: float, quantile: float, logarithmic: bool) -> tuple[float, float]:
    half = quantile * se
    if logarithmic:
        factor = math.exp(half / value)
        return value / factor, value * factor
    return value - half, value + half
