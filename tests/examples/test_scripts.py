"""The examples that are one file each."""

from __future__ import annotations

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
