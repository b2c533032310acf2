"""The tables of docs/scale.md are those of the figures."""

from __future__ import annotations

import pytest

from benchmarks.text_to_image_scale import page_tables
from carv_distill.files import read_json
from tests.helpers.small import ROOT

FIGURES = read_json(ROOT / "benchmarks/results/text_to_image_scale.json")


def test_tables_are_those_of_the_figures() -> None:
    page = (ROOT / "docs/scale.md").read_text()
    for table in page_tables(FIGURES):
        assert table in page


def test_every_check_of_the_figures_holds() -> None:
    for check in FIGURES["checks"]:
        assert check["model"] == pytest.approx(check["measured"], rel=check["bound"]), check["name"]
