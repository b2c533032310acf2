"""The toy study against closed forms; quadrature against what can be done by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from carv_distill.carv import NoiseLevelSampler, Proposal, stream
from studies.integrands import EXPONENTIAL, PERIODIC, cosine, exact_variance, measure
from studies.results import read_csv
from studies.toy_importance import PEAK, main, proposals

UNIFORM = Proposal.uniform(100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quick study, seed 0."""
    out = tmp_path_factory.mktemp("results")
    assert main(["--quick", "--out", str(out)]) == 0
    return out / "toy_importance"


def rows(folder: Path, name: str, **values: Any) -> list[dict[str, Any]]:
    found = json.loads((folder / f"{name}.json").read_text())["rows"]
    return [r for r in found if all(r[key] == value for key, value in values.items())]


# ---------------------------------------------------------------- quadrature


def test_exact_variances_by_hand() -> None:
    """e^u: E = e − 1, E f² = (e² − 1)/2; cos 2πKu: 1/2 per draw, and a shifted grid of K sees one value."""
    integral = math.e - 1
    assert EXPONENTIAL.integral == pytest.approx(integral, rel=1e-14)
    iid = exact_variance(EXPONENTIAL, UNIFORM, "iid", 5)
    assert iid == pytest.approx(((math.e**2 - 1) / 2 - integral**2) / 5, rel=1e-12)
    # Variance inside stratum k is e^{2k/K} times that inside the first.
    h = 1 / 4
    first = math.expm1(2 * h) / (2 * h) - (math.expm1(h) / h) ** 2
    by_hand = first * sum(math.exp(2 * k * h) for k in range(4)) / 16
    assert exact_variance(EXPONENTIAL, UNIFORM, "stratified", 4) == pytest.approx(by_hand, rel=1e-9)
    # 1/K Σ e^{(k+U)/K} = c e^{U/K}
    c = sum(math.exp(k * h) for k in range(4)) / 4
    assert exact_variance(EXPONENTIAL, UNIFORM, "systematic", 4) == pytest.approx(c**2 * first, rel=1e-10)
    for k in (4, 16):
        assert exact_variance(cosine(k), UNIFORM, "stratified", k) == pytest.approx(0.5 / k, rel=1e-10)
        assert exact_variance(cosine(k), UNIFORM, "systematic", k) == pytest.approx(0.5, rel=1e-10)
    assert exact_variance(PERIODIC, UNIFORM, "systematic", 4) < 1e-28


def test_exact_oracle_variance_is_that_of_the_noise() -> None:
    """q ∝ |f| on 1,000 bins leaves s² I² up to the bins' width, and it is the least of the three."""
    q = proposals()
    exact = {name: exact_variance(PEAK, q[name], "iid", 1) for name in q}
    assert exact["oracle"] == pytest.approx(PEAK.noise**2 * PEAK.integral**2, rel=1e-3)
    assert exact["uniform"] / exact["oracle"] == pytest.approx(4, rel=0.02)
    assert exact["uniform"] / exact["surrogate"] == pytest.approx(2.2, rel=0.02)
    assert exact_variance(PEAK, q["oracle"], "stratified", 16) == pytest.approx(
        exact["oracle"] / 16, rel=1e-3
    )


def test_systematic_quadrature_refuses_importance() -> None:
    with pytest.raises(ValueError, match="uniform proposal only"):
        exact_variance(PEAK, proposals()["oracle"], "systematic", 4)


# ---------------------------------------------------------------- measured, seed 0


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
    assert "ours" in summary["integrand"]["origin"]
    metadata, table = read_csv(folder / "summary.csv")
    assert metadata["command"].endswith("toy_importance --quick")
    assert len(table) == len(summary["rows"])
    for name in ("ecm", "rates"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_stream_decides_the_numbers() -> None:
    def variance(seed: int) -> float:
        return measure(PEAK, NoiseLevelSampler(UNIFORM, "stratified"), 4, 2000, stream(seed)).variance.value

    assert variance(0) == variance(0) != variance(1)
