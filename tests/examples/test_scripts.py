"""The examples that are one file each."""

from __future__ import annotations

import re

import pytest

from tests.helpers.examples import EXAMPLES, load


def test_own_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    """The render ends on a mode, and stratified draws have less than half of iid's variance at equal K."""
    figures = load("own_pipeline.py").main()
    assert figures["before"] > 0.4
    assert figures["after"] < 0.05
    assert figures["stratified"] < figures["iid"] / 2
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_advise_own_pipeline() -> None:
    """Every sampler's advice is predicted to beat one draw per camera, and strata beat iid draws."""
    ecm = load("advise_own_pipeline.py").main()
    assert list(ecm) == ["uniform", "IW", "Strat", "IW+Strat", "best"]
    assert ecm["uniform"] > 1.2
    assert ecm["best"] > ecm["uniform"]


@pytest.mark.slow
def test_influence_own_model() -> None:
    """Most of the ten points that shaped a query's loss lie on its own ring, a third of all do."""
    shares, chosen = load("influence_own_model.py").main()
    assert sum(shares) / len(shares) > 0.8
    assert "antithetic" in chosen


def test_own_pipeline_needs_the_method_alone() -> None:
    """Of this project it imports the method and its meter alone; no Lightning, no diffusers."""
    imports = [
        line
        for line in (EXAMPLES / "own_pipeline.py").read_text().splitlines()
        if line.startswith(("import ", "from "))
    ]
    packages = {line.split()[1] for line in imports}
    assert packages == {"__future__", "torch", "carv_distill.carv", "carv_distill.variance"}


def test_integrations_need_the_public_face_alone() -> None:
    """Of this project they import the method and its measures, and nothing inside of them."""
    places = sorted((EXAMPLES / "integrations").rglob("*.py"))
    used = {
        name
        for place in places
        for name in re.findall(r"^ *(?:from|import) (carv_distill\S*)", place.read_text(), re.M)
    }
    assert len(places) >= 9
    assert used == {"carv_distill.carv", "carv_distill.variance"}


@pytest.mark.parametrize("name", sorted(p.name for p in (EXAMPLES / "integrations").iterdir()))
def test_every_integration_says_what_it_equals(name: str) -> None:
    """Its README, of one screen, and the index have it."""
    text = (EXAMPLES / "integrations" / name / "README.md").read_text()
    assert "**Equality" in text
    assert len(text.splitlines()) < 40
    assert f"(integrations/{name}/README.md)" in (EXAMPLES / "README.md").read_text()
