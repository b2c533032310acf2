"""Curves: thinned, with their bands, and as a still picture."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from carv_distill.report.charts import COLOURS, SHAPES, curves, look, thinned


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
    assert '<div class="plot"' in block
    assert "<svg" in block.split('<div class="plot"')[1]
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


def test_no_two_curves_look_alike() -> None:
    """Of more than there are colours, too, and the legend has all of them."""
    looks = [look(number) for number in range(len(COLOURS) * len(SHAPES))]
    assert len(set(looks)) == len(looks)
    names = [f"curve {number}" for number in range(9)]
    points = [{"curve": name, "step": s, "seconds": s, "value": 1.0 + s} for name in names for s in (0, 1)]
    page = str(curves(points, "FID", "nine"))
    assert all(page.count(name) > 1 for name in names)


def test_the_legend_is_the_page_s_own() -> None:
    """Vega's is cut where the screen is narrow; of the run's only curve the title says all, but not of one of
    several runs, nor of one loss."""
    names = ["(32, 4) stratified: total", "(32, 1) iid: total"]
    block = curves([*points(3, names[0]), *points(3, names[1])], "variance", "Variance")
    legend = re.findall(r'<li><svg[^>]*fill="([^"]+)">.*?</svg>(.*?)</li>', block)
    assert legend == list(zip(COLOURS[:2], names, strict=True))
    assert names[0] not in block.split('<div class="plot"')[1].split("<script")[0].split("aria-label")[0]
    assert "role-legend" not in block
    assert 'class="legend"' not in curves(points(3, "this run"), "FID", "FID")
    assert "</svg>fake</li>" in curves(points(3, "fake"), "loss", "Losses")
    assert len(SHAPES) == len(COLOURS)


@pytest.mark.parametrize("back", ["#ffffff", "#15171a"])
def test_colours_are_seen_on_both_pages(back: str) -> None:
    """Contrast of 3 or more, what WCAG 2.1 wants of graphics (1.4.11)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for colour in COLOURS:
        light, dark = sorted((luminance(colour), luminance(back)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3, colour
