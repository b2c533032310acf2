"""Fields of a configuration that carry their own limits, checked with their full key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from carv_distill.errors import UserError


def at_least(low: float, default: Any = MISSING) -> Any:
    """A number ≥ low; None is allowed where it is the default."""
    return field(default=default, metadata={"low": low})


def more_than(low: float, default: Any = MISSING) -> Any:
    """A number > low; None is allowed where it is the default."""
    return field(default=default, metadata={"above": low})


def between(low: float, high: float, default: Any = MISSING) -> Any:
    """A number in [low, high]."""
    return field(default=default, metadata={"low": low, "high": high})


def one_of(choices: tuple[str, ...], default: Any = MISSING) -> Any:
    """One of the names."""
    return field(default=default, metadata={"choices": choices})


def nearest(word: str, known: list[str]) -> str:
    """ " (did you mean …?)" or nothing."""
    match = get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {match[0]}?)" if match else ""


def check_limits(options: Any, prefix: str = "") -> None:
    """Checks every field of a tree of dataclasses against its limits.

    Raises:
        UserError: naming the key, what was found and what is allowed.
    """
    for key, spec, value in _leaves(options, prefix):
        limits = spec.metadata
        if value is None and spec.default is None:
            continue
        if "choices" in limits and value not in limits["choices"]:
            hint = nearest(str(value), list(limits["choices"]))
            raise UserError(f"{key}: {value!r} is not one of {', '.join(limits['choices'])}{hint}")
        if "low" in limits and not value >= limits["low"]:
            raise UserError(f"{key}: {value} is below the least allowed value, {limits['low']:g}")
        if "above" in limits and not value > limits["above"]:
            raise UserError(f"{key}: {value} is not above {limits['above']:g}")
        if "high" in limits and not value <= limits["high"]:
            raise UserError(f"{key}: {value} is above the greatest allowed value, {limits['high']:g}")


def _leaves(options: Any, prefix: str) -> Iterator[tuple[str, Field[Any], Any]]:
    for spec in fields(options):
        value = getattr(options, spec.name)
        if is_dataclass(value):
            yield from _leaves(value, f"{prefix}{spec.name}.")
        else:
            yield f"{prefix}{spec.name}", spec, value
