"""The quick toy study against closed forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from studies.toy_importance.__main__ import main

pytestmark = pytest.mark.slow  # all of it looks at one quick study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quick study, seed 0."""
    out = tmp_path_factory.mktemp("results")
    assert main(["--quick", "--out", str(out)]) == 0
    return out / "toy_importance"


def rows(folder: Path, name: str, **values: Any) -> list[dict[str, Any]]:
    found = json.loads((folder / f"{name}.json").read_text())["rows"]
    return [r for r in found if all(r[key] == value for key, value in values.items())]


@pytest.mark.parametrize(("proposal", "strategy", "K"), [("oracle", "iid", 1), ("surrogate", "iid", 1),
                                                         ("surrogate", "stratified", 16)])  # fmt: skip
def test_measured_ecm_is_the_exact_one(folder: Path, proposal: str, strategy: str, K: int) -> None:
    (row,) = rows(folder, "ecm", proposal=proposal, strategy=strategy, K=K)
    assert abs(row["ecm"] - row["ecm_exact"]) < 4 * row["ecm_se"]
    assert row["ecm_se"] < 0.1 * row["ecm"]


def test_slopes(folder: Path) -> None:
    for strategy, power in (
        ("iid", -1),
        ("stratified", -3),
        ("global", -3),
        ("systematic", -2),
        ("sobol", -2),
    ):
        (row,) = rows(folder, "slopes", strategy=strategy)
        assert abs(row["slope"] - power) < 4 * row["slope_se"]
        assert row["slope_se"] < 0.03


def test_a_shifted_grid_fails_on_the_cosine_and_strata_do_not(folder: Path) -> None:
    for k in (4, 16, 64):
        for strategy in ("systematic", "sobol"):
            (row,) = rows(folder, "cosine", strategy=strategy, K=k)
            assert abs(row["variance"] - 0.5) < 4 * row["variance_se"]
            assert row["efficiency_high"] < 1
        (row,) = rows(folder, "cosine", strategy="stratified", K=k)
        assert abs(row["efficiency"] - 1) < 4 * row["efficiency_se"]


def test_every_measured_variance_and_mean_agrees_with_quadrature(folder: Path) -> None:
    """111 cells, seed 0; 4.5 standard errors, for the variances of 39 degrees of freedom, leave under 10⁻²
    for any of their 222 numbers to fail."""
    measured = [
        r for name in ("ecm", "rates", "cosine") for r in rows(folder, name) if r["variance_exact"] > 1e-25
    ]
    assert len(measured) == 111
    for row in measured:
        assert abs(row["variance"] - row["variance_exact"]) < 4.5 * row["variance_se"], row
        assert abs(row["mean_z"]) < 4.5, row


def test_the_verdict_is_written_with_its_numbers(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    assert all(r["holds"] for r in summary["rows"])
    assert summary["verdict"][0].startswith("ECM, oracle, iid (peak, K = 1): ")
    assert "ours" in summary["integrand"]["choice"]
    assert summary["command"].endswith("toy_importance --quick")
    assert len(pd.read_csv(folder / "summary.csv", comment="#")) == len(summary["rows"])
    for name in ("ecm", "rates"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
