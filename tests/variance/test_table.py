"""Plain-text tables and numbers with intervals."""

from __future__ import annotations

import math

import pytest

from carv_distill.variance import Estimate, Table, estimate_dict, with_interval
from carv_distill.variance.table import with_half_width


def test_columns_are_as_wide_as_their_cells() -> None:
    """A cell of several lines takes several lines; nothing is cut, and no line ends in blanks."""
    table = Table("Title", ("a", "wide header"), [("first\nsecond", "1"), ("x" * 90, "2")])
    assert str(table).splitlines() == [
        "Title",
        "",
        "a" + 91 * " " + "wide header",
        "─" * 103,
        "first" + 87 * " " + "1",
        "second",
        "x" * 90 + "  2",
    ]


def test_captions_are_wrapped() -> None:
    lines = str(Table("t", ("a",), [("1",)], "word " * 40)).splitlines()
    assert lines[5] == ""
    assert max(len(line) for line in lines[6:]) <= 80
    assert " ".join(lines[6:]) == ("word " * 40).strip()


def test_numbers_with_intervals() -> None:
    assert with_interval(Estimate(1234.5, 1, 1000.0, 1500.0)) == "1,234 [1,000, 1,500]"
    assert with_interval(Estimate(0.12345, 1, -1.0, 1.5)) == "0.123 [-1, 1.5]"
    assert with_interval(Estimate(0.12345, 1, 0.1, 0.2), ".1f") == "0.1 [0.1, 0.2]"
    assert with_interval(Estimate(1.0, 0, 1.0, 1.0), ".2f") == "1.00"
    assert with_interval(Estimate(math.nan, math.nan, math.nan, math.nan), ".3g") == "nan"
    assert estimate_dict(Estimate(1.0, 0.1, 0.8, 1.2)) == {"value": 1.0, "interval": [0.8, 1.2]}


@pytest.mark.parametrize(
    ("value", "half", "shown"),
    [
        (0.34, 0.0838, ("0.340", "0.084")),
        (0.7, 0.04, ("0.700", "0.040")),
        (1234.5, 67.8, ("1,234", "68")),
        (-3.21e-9, 4.5e-10, ("-3.21e-09", "4.5e-10")),
        (0.5, math.nan, ("0.5", "")),
        (0.5, 0.0, ("0.5", "0")),
        (0.5, math.inf, ("0.5", "inf")),
    ],
)
def test_a_score_has_the_digits_of_its_interval(value: float, half: float, shown: tuple[str, str]) -> None:
    assert with_half_width(value, half) == shown
