"""Numbers with intervals in sentences."""

from __future__ import annotations

import math

from carv_distill.variance import Estimate
from studies.sentences import estimate, sentence, show
from studies.study import columns


def test_a_number_is_shown_to_two_digits_of_its_half_width() -> None:
    assert show(Estimate(1234.5678, 1, 1222.2, 1246.9)) == "1,235 [1,222, 1,247]"
    assert show(Estimate(1.0000008, 0, 0.9999969, 1.0000047)) == "1.0000 [1.0000, 1.0000]"
    assert show(Estimate(0.00012, 0, 0.00011, 0.00013)) == "0.000120 [0.000110, 0.000130]"
    assert show(Estimate(*[math.nan] * 4)) == "nan [nan, nan]"
    assert show(Estimate(0.5, 0, 0.5, 0.5)) == "0.500 [0.500, 0.500]"


def test_an_interval_that_holds_the_limit_resolves_nothing() -> None:
    numbers = {
        "a": Estimate(2, 0.1, 1.8, 2.2),
        "b": Estimate(1, 0.1, 0.8, 1.2),
        "c": Estimate(0.5, 0, 0.4, 0.6),
    }
    said = sentence("ratio", numbers, 1, "worse", "better")
    assert said == (
        "ratio: a 2.00 [1.80, 2.20], better; b 1.00 [0.80, 1.20], not resolved; c 0.50 [0.40, 0.60], worse."
    )
    assert sentence("ratio", {"c": numbers["c"]}) == "ratio: c 0.50 [0.40, 0.60]."


def test_columns_are_an_estimate() -> None:
    e = Estimate(1.0, 0.5, math.e, 4.0)
    assert estimate(columns("x", e), "x") == e
