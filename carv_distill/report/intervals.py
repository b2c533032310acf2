"""Estimates of a result's JSON, as tables of a page have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from carv_distill.variance.table import number


def shown(value: object) -> str:
    """A number as tables have it; anything else as it is."""
    return number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def value_of(estimate: object) -> float | None:
    """Of an estimate; None without one."""
    return estimate.get("value") if isinstance(estimate, Mapping) else None


def ends_of(estimate: Mapping[str, Any]) -> tuple[float, float]:
    """Of its interval; its value twice where it has none."""
    low, high = estimate.get("interval", (estimate["value"], estimate["value"]))
    return float(low), float(high)


def interval(estimate: Any) -> str:
    """ "value [low, high]"; a dash without one."""
    value = value_of(estimate)
    if value is None:
        return "–"
    low, high = ends_of(estimate)
    return f"{shown(value)} [{shown(low)}, {shown(high)}]" if low < high else shown(value)
