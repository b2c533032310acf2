"""What a page says of a gradient's variance, from what `evaluate.py variance` wrote."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from carv_distill.engine.task import PageWords
from carv_distill.report.files import RunFiles
from carv_distill.report.variance_section import variance
from tests.helpers.pages import words_of
from tests.helpers.small import ROOT

RENDERS = PageWords(upstream="render")


def content(**between: Any) -> dict[str, Any]:
    a: dict[str, Any] = json.loads((ROOT / "results/digits/variance.json").read_text())
    a["within_over_between"] = None  # which would go before what the budget says
    a["budget"]["between"] |= between
    return a


def said_of(a: dict[str, Any], words: PageWords = RENDERS) -> str:
    return words_of(variance(RunFiles(Path("a"), {"variance": a}, [], {}, {}, []), words))


def slider(a: dict[str, Any], signal: str = "ratio") -> tuple[list[float], float]:
    """Its values, and that at which it stands."""
    section = variance(RunFiles(Path("a"), {"variance": a}, [], {}, {}, []), RENDERS)
    assert section is not None
    page = "".join(section.blocks)
    ((start, steps),) = re.findall(
        r'value="(\d+)"[^>]*data-signal="' + signal + r'" data-steps="([^"]+)"', page
    )
    values = json.loads(html.unescape(steps))["values"]
    return values, values[int(start)]


def test_short_names_are_explained_and_the_capability_has_its_own() -> None:
    said = said_of(content())
    assert "Strat: one noise level in each of K strata" in said
    assert "with the renders fixed" in said
    assert "cost of one render (κ)" in said
    assert "upstream" not in said.split("Variance of the gradient by")[1]
    assert "with the samples fixed" in said_of(content(), PageWords())


def test_the_slider_stands_at_the_run_and_covers_its_interval() -> None:
    a = content(value=2.0, interval=[0.001, 8.0])
    a["budget"]["within"] = {"value": 40.0, "interval": [16.0, 80.0]}
    values, start = slider(a)
    assert start == 20.0
    assert values[0] <= 2.0
    assert values[-1] >= 2000  # of 80,000, no more than a hundredfold
    assert "Its W/B lies between 2 and 80,000." in said_of(a)
    a["within_over_between"] = {"value": 20.0, "interval": [5.0, 90.0]}
    assert "Its W/B lies between 5 and 90." in said_of(a)  # as the conclusions say it


def test_calls_are_among_what_an_iteration_costs_whatever_its_size() -> None:
    """So that the explorer's cost is that of the advice; a report of before has none."""
    a = content()
    a["cost"] |= {"draw": 0.5, "other": 10.0, "calls": 6.0}
    assert slider(a, "other")[1] == pytest.approx(32.0)
    del a["cost"]["calls"]
    assert slider(a, "other")[1] == pytest.approx(20.0)


@pytest.mark.parametrize("value", [0.5, -1.0])
def test_a_variance_between_samples_that_is_not_told_from_0(value: float) -> None:
    """W/B is then known from below alone: no number is made up for it."""
    a = content(value=value, interval=[-2.0, 4.0])
    a["budget"]["within"] = {"value": 40.0, "interval": [16.0, 80.0]}
    assert slider(a)[1] == 40.0 / (value if value > 0 else 4.0)
    said = said_of(a)
    assert ("Its W/B is 4 or more" in said) is (value > 0)
    assert ("No variance between renders was seen" in said) is (value < 0)


def test_none_at_all_has_no_explorer() -> None:
    said = said_of(content(value=-1.0, interval=[-2.0, 0.0]))
    assert "there is no W/B to explore from" in said
    assert "cost of one" not in said


def test_the_training_by_the_advice_can_be_copied() -> None:
    """Of a file from before there was none, nothing is said."""
    line = "python train.py --config runs/a/config.yaml estimator.draws=2"
    said = said_of(content() | {"train": line})
    assert "To train so:" in said
    assert line in said
    a = content()
    a.pop("train", None)
    assert "To train so" not in said_of(a)
