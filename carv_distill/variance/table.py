"""Numbers with their intervals, and tables of them, as plain text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from .estimate import Estimate

WIDTH = 80


@dataclass(frozen=True)
class Table:
    """Columns under headers, as wide as their widest cell: no cell is cut. Title and caption are wrapped."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def __str__(self) -> str:
        rows = [[cell.split("\n") for cell in row] for row in (self.headers, *self.rows)]
        widths = [max(len(line) for cell in column for line in cell) for column in zip(*rows, strict=True)]
        lines = [
            [
                "  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip()
                for line in zip_longest(*row, fillvalue="")
            ]
            for row in rows
        ]
        rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
        body = [*lines[0], rule, *(line for row in lines[1:] for line in row)]
        title, caption = (textwrap.wrap(text, WIDTH) for text in (self.title, self.caption))
        return "\n".join([*title, "", *body, *([""] if caption else []), *caption])


def number(value: float) -> str:
    """Three digits, or a whole number."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def with_half_width(value: float, half: float) -> tuple[str, str]:
    """A value and half of its interval with the same decimals, two digits of the half: ("0.340", "0.084"); as
    by :func:`number`, and without a half, where that is not known or would take more than six of them."""
    places = 1 - math.floor(math.log10(half)) if 0 < half < math.inf else 7
    if places > 6:
        return number(value), "" if math.isnan(half) else number(half)
    return f"{value:,.{max(places, 0)}f}", f"{half:,.{max(places, 0)}f}"


def with_interval(e: Estimate, form: str | None = None) -> str:
    """ "value [low, high]", in a format or as by :func:`number`; the value alone where it has no interval."""

    def text(value: float) -> str:
        return number(value) if form is None else format(value, form)

    return f"{text(e.value)} [{text(e.low)}, {text(e.high)}]" if e.low < e.high else text(e.value)


def estimate_dict(e: Estimate) -> dict[str, Any]:
    """Value and interval, for JSON."""
    return {"value": e.value, "interval": [e.low, e.high]}
