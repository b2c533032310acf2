"""Curves: thinned, with their bands, and as a still picture."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from carv_distill.report.charts import COLOURS, curves, thinned


def points(count: int, curve: str = "a", **more: float) -> list[dict[str, Any]]:
    return [{"curve": curve, "step": i, "seconds": 2.0 * i, "value": 1.0 + i, **more} for i in range(count)]


def test_many_points_become_means_of_neighbours() -> None:
    made = thinned(points(10) + points(3, "b"), most=5)
    assert [p["value"] for p in made if p["curve"] == "a"] == [1.5, 3.5, 5.5, 7.5, 9.5]
    assert [p["step"] for p in made if p["curve"] == "a"] == [0.5, 2.5, 4.5, 6.5, 8.5]
    assert len([p for p in made if p["curve"] == "b"]) == 3
    assert len(thinned(points(10_000))) <= 400


def test_a_curve_has_its_band_its_colour_and_a_still_picture() -> None:
    block = curves(points(5, low=0.5, high=9.0) + points(5, "b"), "FID", "FID over the training")
    (content,) = re.findall(r'<script type="application/json">(.*?)</script>', block, re.DOTALL)
    spec = json.loads(content)
    assert len(spec["layer"]) == 3
    assert spec["layer"][0]["mark"]["type"] == "area"
    assert spec["layer"][1]["encoding"]["color"]["scale"] == {"domain": ["a", "b"], "range": COLOURS[:2]}
    assert "<svg" in block
    assert block.count("FID over the training") >= 2  # for eyes and for readers
    assert len(json.loads(content)["data"]["values"]) == 10


def test_without_intervals_there_is_no_band() -> None:
    (content,) = re.findall(
        r"application/json\">(.*?)</script>", curves(points(3), "loss", "Losses"), re.DOTALL
    )
    assert len(json.loads(content)["layer"]) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_left_out(value: float) -> None:
    rows = [*points(3), {"curve": "a", "step": 9, "seconds": 9.0, "value": value}]
    (content,) = re.findall(r"application/json\">(.*?)</script>", curves(rows, "loss", "Losses"), re.DOTALL)
    assert len(json.loads(content)["data"]["values"]) == 3
