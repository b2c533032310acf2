"""What a study found, beside what it should have found: the rows and sentences of a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from carv_distill.variance import Estimate
from studies.results import columns


@dataclass(frozen=True)
class Claim:
    """A measured number and its exact value."""

    quantity: str
    """The number: what, of which estimator."""
    case: str
    """On which integrand, at which (R, K)."""
    measured: Estimate
    exact: float
    expected: str
    """What the paper or the theory says, for the reader."""

    @property
    def shown(self) -> tuple[str, str]:
        """Measured with its interval, and exact."""
        m = self.measured
        return show(m.value, m.low, m.high), f"{self.exact:,.{_decimals(m.low, m.high)}f}"

    @property
    def holds(self) -> bool:
        """Whether measured and exact agree within 4 standard errors."""
        return abs(self.measured.value - self.exact) <= 4 * self.measured.se

    def row(self) -> dict[str, Any]:
        """Columns of the CSV."""
        return {
            "quantity": self.quantity,
            "case": self.case,
            "expected": self.expected,
            "exact": self.exact,
            **columns("measured", self.measured),
            "holds": self.holds,
        }

    def sentence(self) -> str:
        """The claim in words."""
        end = "." if self.holds else ": more than 4 standard errors apart."
        measured, exact = self.shown
        return f"{self.quantity} ({self.case}): {measured}, exactly {exact} ({self.expected}){end}"


def show(value: float, low: float, high: float) -> str:
    """value [95 % interval], to two significant digits of the interval's half width."""
    d = _decimals(low, high)
    return f"{value:,.{d}f} [{low:,.{d}f}, {high:,.{d}f}]"


def show_column(row: Mapping[str, Any], name: str) -> str:
    """A row's value under a name with its interval, as :func:`results.columns` made them."""
    return show(row[name], row[f"{name}_low"], row[f"{name}_high"])


def claims_table(title: str, claims: Sequence[Claim]) -> Table:
    """What was expected and what was measured."""
    table = Table("", "where", "measured [95 %]", "exact", "expected", "agree", title=title)
    for c in claims:
        agree = "yes" if c.holds else "NO"
        table.add_row(c.quantity, c.case, *c.shown, c.expected, agree)
    return table


def _decimals(low: float, high: float) -> int:
    half = (high - low) / 2
    return max(0, 1 - math.floor(math.log10(half))) if half > 0 else 3
