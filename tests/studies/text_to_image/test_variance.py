"""Ratios of variance over checkpoints, on gradients whose covariance is known."""

from __future__ import annotations

import pytest
import torch

from carv_distill.variance import PairedVariance
from studies.text_to_image.variance import ARMS, ratio_rows, sentences, state_rows, strata_over_iid

BETWEEN = 1.0
WITHIN = {"(8,1) iid": 16.0, "(8,16) iid": 1.0, "(8,16) stratified": 0.25}
"""Traces over 2,000 dimensions."""
SECONDS = {"(8,1) iid": 1.0, "(8,16) iid": 8.5, "(8,16) stratified": 8.5}


def measured(scale: float, seed: int) -> dict[str, PairedVariance]:
    """60 pairs of every arm: g = shared + own, independent Gaussian entries of known variance."""
    found = {}
    for number, (arm, within) in enumerate(WITHIN.items()):
        g, of_arm = (torch.Generator().manual_seed(s) for s in (seed, 100 + 10 * seed + number))
        v = PairedVariance()
        for _ in range(60):
            shared = torch.randn(2000, generator=g, dtype=torch.float64) * (BETWEEN * scale / 2000) ** 0.5
            own = torch.randn(2, 2000, generator=of_arm, dtype=torch.float64) * (within * scale / 2000) ** 0.5
            v.update(shared + own[0], shared + own[1])
        found[arm] = v
    return found


@pytest.fixture(scope="module")
def states() -> dict[int, dict[str, PairedVariance]]:
    return {60: measured(1.0, 0), 300: measured(9.0, 1)}


def test_ratios_are_those_of_the_traces(states: dict[int, dict[str, PairedVariance]]) -> None:
    iid, strata = ratio_rows(states, SECONDS)
    for row, within in ((iid, 1.0), (strata, 0.25)):
        for name, truth in (("total", 17 / (1 + within)), ("within", 16 / within)):
            assert abs(row[name] - truth) < 4 * row[f"{name}_se"], (row["arm"], name)
        assert row["effective_compute"] == pytest.approx(row["total"] / 8.5)
        assert row["seconds_over_baseline"] == 8.5
    truth = strata_over_iid(states)
    assert abs(truth.value - 4) < 4 * truth.se


def test_a_row_for_every_state_and_arm(states: dict[int, dict[str, PairedVariance]]) -> None:
    rows = state_rows(states)
    assert [(row["step"], row["arm"]) for row in rows] == [(s, arm) for s in (60, 300) for arm in ARMS]
    assert all(row["total"] == pytest.approx(row["within"] + row["between"], rel=0.05) for row in rows)


def test_sentences_say_on_which_side_of_one_a_ratio_lies(
    states: dict[int, dict[str, PairedVariance]],
) -> None:
    first, _, strata, parts = sentences(states, ratio_rows(states, SECONDS))
    assert first.count("above") == 2  # total and samples fixed
    assert "effective compute" in first
    assert "above" in strata
    assert parts.startswith("Variance within over between")
    assert "16" in parts or "15" in parts or "17" in parts  # W/B = 16
