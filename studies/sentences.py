"""How numbers with intervals stand in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from carv_distill.variance import Estimate

DIGITS = 5
"""Significant digits of a number at most, however narrow its interval is."""


def decimals(low: float, high: float) -> int:
    """Of a number with this interval: two significant digits of the interval's half width, but no more than
    DIGITS of the number itself."""
    half, size = (high - low) / 2, max(abs(low), abs(high))
    if not half > 0:  # nor NaN
        return 3
    return max(0, min(1 - _exponent(half), DIGITS - 1 - _exponent(size)))


def _exponent(x: float) -> int:
    return math.floor(math.log10(x))


def show(e: Estimate) -> str:
    """value [95 % interval]."""
    d = decimals(e.low, e.high)
    return f"{e.value:,.{d}f} [{e.low:,.{d}f}, {e.high:,.{d}f}]"


def estimate(row: Mapping[str, Any], name: str) -> Estimate:
    """A row's value under a name with its interval, as :func:`.results.columns` made them."""
    return Estimate(row[name], row[f"{name}_se"], row[f"{name}_low"], row[f"{name}_high"])


def show_column(row: Mapping[str, Any], name: str) -> str:
    """The same in words."""
    return show(estimate(row, name))


def sentence(
    what: str,
    numbers: Mapping[str, Estimate],
    limit: float | None = None,
    below: str = "below",
    above: str = "above",
) -> str:
    """`what: name value [95 % interval], side of the limit; …` An interval that holds the limit resolves
    nothing."""
    parts = []
    for name, e in numbers.items():
        side = below if limit is None or e.high < limit else above if e.low > limit else "not resolved"
        parts.append(f"{name} {show(e)}" + ("" if limit is None else f", {side}"))
    return f"{what}: {'; '.join(parts)}."
