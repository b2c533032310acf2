"""Hits and misses of predictions that are made up."""

from __future__ import annotations

import math

import pytest

from carv_distill.variance import Estimate
from studies.advisor.cases import CASES, Prediction
from studies.advisor.table import draw, rows, sentences


def made_up(predicted: float, measured: float, width: float = 1.1) -> Prediction:
    """Intervals reach from value/width to value·width; the variance is predicted rightly."""
    p, m = (Estimate(v, 0.05 * v, v / width, v * width) for v in (predicted, measured))
    return Prediction("Strat", (4, 2), (8, 1), p, m, (3.0, 3.0), (1.0, predicted / measured))


def test_measured_over_predicted_has_the_intervals_of_both() -> None:
    e = made_up(2.0, 3.0).ratio
    assert e.value == pytest.approx(1.5)
    assert e.high == pytest.approx(1.5 * math.exp(math.sqrt(2) * math.log(1.1)))
    assert e.low * e.high == pytest.approx(1.5**2)


@pytest.mark.parametrize(("measured", "held"), [(2.2, True), (2.35, False), (1.8, True), (1.7, False)])
def test_what_lies_within_both_intervals_is_a_hit(measured: float, held: bool) -> None:
    """exp(√2 ln 1.1) = 1.144."""
    assert made_up(2.0, measured).held == held


def test_a_miss_says_by_which_factor() -> None:
    found = {"distillation, pixels": made_up(2.0, 2.1), "text-to-3D, voxels": made_up(2.0, 3.0)}
    said = sentences(found)
    assert said[0] == "Predicted and measured effective compute agree within their intervals on 1 of 2."
    seen = "hit, × 1.05, where a miss by less than about × 1.14 is not seen."  # exp(√2 ln 1.1)
    assert said[1].endswith(f"measured 2.10 [1.91, 2.31]: {seen}")
    assert said[2].endswith("a miss, × 1.50, of which variance × 1.00 and seconds × 1.50.")
    small = sentences({"text-to-3D, voxels": made_up(2.0, 2.1, 1.01)})[1]
    assert "a small miss, × 1.05" in small
    table = rows(found)
    assert [row["held"] for row in table] == [True, False]
    assert table[0]["half_width"] == pytest.approx(math.exp(math.sqrt(2) * math.log(1.1)))
    assert table[1]["seconds_measured"] == pytest.approx(2 / 3)
    assert len(draw(found).axes) == 1


def test_every_case_has_a_configuration_and_a_name_of_its_own() -> None:
    assert all(case.config.is_file() for case in CASES)
    assert len({case.run().name for case in CASES}) == len(CASES)
