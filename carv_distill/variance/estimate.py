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


def mean_estimate(
    terms: Sequence[float], level: float = 0.95, positive: bool = False, skewed: bool = False
) -> Estimate:
    """Mean of independent terms with an interval.

    Student's, or for a positive quantity the same on the logarithmic scale. Terms of a variance are squares,
    and skewed: few of them hold none of the rare large ones, and Student's interval then lies too low. Of
    `skewed` terms the interval is Hall's, which takes their skewness in (:func:`_hall`); of a positive
    quantity both at once, from the lower to the upper end of the two.

    The level is nominal. What it covers is measured: `python -m benchmarks.coverage`, docs/method.md.

    Args:
        terms: independent and of one expectation.
        level: of the interval.
        positive: whether the expectation is known to be.
        skewed: whether the terms may be, as squares are.

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
    logarithmic = positive and mean > 0
    low, high = _interval(mean, se, t_quantile((1 + level) / 2, n - 1), logarithmic)
    if skewed and se > 0:
        least, most = (mean + offset for offset in _hall(terms, mean, se, level))
        if not logarithmic:
            low, high = least, most
        else:
            low, high = min(low, least) if least > 0 else low, max(high, most)
    return Estimate(mean, se, low, high, tuple(terms))


def share_estimate(hits: int, trials: int, level: float = 0.95) -> Estimate:
    """Share of independent trials that are hits, p = h/n, with its standard error and Wilson's interval: it
    lies in [0, 1] and is no point where all or none are hits.

    Raises:
        ValueError: no trials.

    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference, JASA 22(158).
    """
    require_at_least(1, trials=trials)
    p, z = hits / trials, normal_quantile((1 + level) / 2)
    shrunk = z * z / trials
    middle = (p + shrunk / 2) / (1 + shrunk)
    half = math.sqrt(p * (1 - p) * shrunk + shrunk * shrunk / 4) / (1 + shrunk)
    se = math.sqrt(p * (1 - p) / trials)
    return Estimate(p, se, max(middle - half, 0.0), min(middle + half, 1.0))


def ratio(a: Estimate, b: Estimate, level: float = 0.95) -> Estimate:
    """a/b, b > 0, of independent estimates; not a number where b is 0. Where the intervals of both lie above
    zero, so does that of the ratio, which is made of them on the logarithmic scale; otherwise it is
    first-order and symmetric.

    Where a and b share upstream draws they are positively correlated, and the interval is too wide: then
    see :func:`paired_ratio`.

    Args:
        level: of the symmetric interval; the other has that of a and b.

    Source: Donner and Zou (2012), Closed-form confidence intervals for functions of estimates (MOVER).
    """
    if b.value == 0:  # of a gradient that is zero in every replicate, there is no ratio
        return Estimate(math.nan, math.nan, math.nan, math.nan)
    value = a.value / b.value
    se = math.hypot(a.se, value * b.se) / b.value
    if a.low > 0 and b.low > 0:
        down = math.hypot(math.log(a.value / a.low), math.log(b.high / b.value))
        up = math.hypot(math.log(a.high / a.value), math.log(b.value / b.low))
        return Estimate(value, se, value * math.exp(-down), value * math.exp(up))
    return Estimate(value, se, *_interval(value, se, normal_quantile((1 + level) / 2), False))


def student(value: float, se: float, degrees: float, quantile: float = 0.975) -> Estimate:
    """A number with Student's interval, by default of 95 %."""
    half = se * t_quantile(quantile, degrees)
    return Estimate(value, se, value - half, value + half)


def paired_ratio(a: Estimate, b: Estimate, level: float = 0.95) -> Estimate:
    """ā/b̄ of two positive means whose i-th terms were measured on the same upstream draws.

    The standard error is the jackknife's of the logarithm, in which what the two have in common cancels,

        se² = (n − 1)/n Σ_i (l_i − l̄)²,    l_i = log (Σ_{j≠i} a_j / Σ_{j≠i} b_j),

    and the interval Student's, n − 1 degrees of freedom. To first order this is the spread of the terms
    a_i/ā − b_i/b̄, but with few and skewed terms, one of which may be most of both means, it is wider and
    covers more (`python -m benchmarks.coverage`). The first order is used where a sum without one of its
    terms is not positive.

    Raises:
        ValueError: a and b have not the same number of terms, at least two.

    Source: Miller (1974), The jackknife: a review, Biometrika 61(1).
    """
    n = len(a.terms)
    if n < 2 or n != len(b.terms):
        raise ValueError(f"a paired ratio needs as many terms on both sides, found {n} and {len(b.terms)}")
    value, quantile = a.value / b.value, t_quantile((1 + level) / 2, n - 1)
    left = [[math.fsum(e.terms) - t for t in e.terms] for e in (a, b)]
    if min(map(min, left)) > 0:
        logs = [math.log(x / y) for x, y in zip(*left, strict=True)]
        mean = math.fsum(logs) / n
        se = value * math.sqrt((n - 1) / n * math.fsum((x - mean) ** 2 for x in logs))
    else:
        squares = math.fsum((x - value * y) ** 2 for x, y in zip(a.terms, b.terms, strict=True))
        se = math.sqrt(squares / (n - 1) / n) / b.value
    return Estimate(value, se, *_interval(value, se, quantile, value > 0))


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
        factor = math.exp(min(half / value, 700.0))  # a wider one is no number
        return value / factor, value * factor
    return value - half, value + half


def _hall(terms: Sequence[float], mean: float, se: float, level: float) -> tuple[float, float]:
    """Offsets from the mean to the ends of an interval that takes skewness in.

    With T = (m̄ − μ)/s, s the terms' standard deviation (divisor n − 1), and γ their skewness, the monotone
    g(T) = T + γ T²/3 + γ² T³/27 + γ/(6n) has a symmetric distribution up to O(1/n); the ends solve
    g(T) = ± t/√n with Student's quantile t, n − 1 degrees of freedom.

    Source: P. Hall (1992), On the removal of skewness by transformation, JRSS B 54(1).
    """
    n = len(terms)
    s = se * math.sqrt(n)
    cube = math.fsum(((t - mean) / s) ** 3 for t in terms) / n
    skewness = cube * (n / (n - 1)) ** 1.5
    half = t_quantile((1 + level) / 2, n - 1) / math.sqrt(n)

    def inverse(y: float) -> float:
        if abs(skewness) < 1e-6:
            return y
        return 3 / skewness * (math.cbrt(1 + skewness * (y - skewness / (6 * n))) - 1)

    return -s * inverse(half), -s * inverse(-half)
