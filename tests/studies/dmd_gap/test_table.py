"""Ratios of variance, differences of FID and the conclusion, on made-up runs."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from carv_distill.variance import Estimate
from studies.dmd_gap import table
from studies.dmd_gap.arms import BASE, LONGER, REUSE, STRATA
from studies.dmd_gap.figures import draw_gap
from tests.helpers.gap_runs import PLAN, SEEDS, final, make_runs


@pytest.fixture
def study(tmp_path: Path) -> tuple[list, list, dict, pd.DataFrame]:
    """Arms, traces, finals, metrics."""
    arms = make_runs(tmp_path)
    metrics = table.read_runs(arms, SEEDS, tmp_path)
    finals = {arm.name: [arm.run(seed).fid(tmp_path) for seed in SEEDS] for arm in arms}
    return arms, table.trace_rows(metrics), finals, metrics


def test_variances_are_those_of_the_baseline_over_each(study) -> None:
    """At equal updates: the longer baseline is not in it."""
    arms, traces, finals, _ = study
    rows = {row["arm"]: row for row in table.arm_rows(arms, traces, finals)}
    assert rows[REUSE]["total_ratio"] == pytest.approx(4)
    assert rows[REUSE]["within_ratio"] == pytest.approx(16)
    assert rows[STRATA]["total_ratio"] == pytest.approx(1)
    assert "total_ratio" not in rows[BASE]
    assert "total_ratio" not in rows[LONGER]
    assert rows[LONGER]["updates"] == 600 == PLAN.longer
    assert rows[LONGER]["factor"] == rows[BASE]["factor"] == 0.5
    assert rows[LONGER]["fid"] == pytest.approx(1.1)


def test_the_deciding_pair_has_an_interval_of_its_own(study) -> None:
    """−0.03, −0.02, −0.01: Student's with two degrees of freedom, t = 4.3027; with eight others it would be
    wider."""
    arms, _, finals, _ = study
    deciding, *beside = table.difference_rows(arms, finals)
    assert (deciding["arm"], deciding["against"]) == (STRATA, LONGER)
    assert deciding["difference"] == pytest.approx(-0.02)
    half = 4.3027 * 0.01 / math.sqrt(3)
    assert deciding["difference_high"] == pytest.approx(-0.02 + half, abs=1e-6)
    pairs = {(row["arm"], row["against"]) for row in beside}
    assert ("(22,1) iid", REUSE) in pairs
    assert ("(40,1) iid", STRATA) in pairs
    assert (STRATA, BASE) in pairs
    assert len(pairs) == 9


def test_the_band_is_two_deviations_of_the_baseline(study) -> None:
    _, _, finals, _ = study
    assert table.band(finals) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.4, -0.1, "Quality follows variance here."),
        (0.1, 0.4, "The quieter gradient costs quality here."),
        (-0.1, 0.15, "Less variance and no better FID: the paper's finding."),
        (-0.4, 0.2, "Not resolved: a difference under 0.300 could not have been seen."),
        (-0.1, 0.3, "Not resolved: a difference under 0.200 could not have been seen."),
    ],
)
def test_the_conclusion_is_the_design_s(low: float, high: float, said: str) -> None:
    """With a band of ± 0.2."""
    difference = Estimate((low + high) / 2, 0.1, low, high)
    assert table.conclusion(difference, 0.2).endswith(said)


def test_every_comparison_is_said(study) -> None:
    arms, traces, finals, metrics = study
    rows, differences = table.arm_rows(arms, traces, finals), table.difference_rows(arms, finals)
    said = table.sentences(rows, differences, table.band(finals))
    assert said[0].startswith(f"{STRATA} against {LONGER}: FID -0.020 [-0.045, 0.005]")
    assert said[0].endswith("the paper's finding.")
    assert f"{REUSE}, variance of {BASE} over its own: in total 4.000 [4.000, 4.000]" in said[1]
    assert len(said) == 1 + 5 + 9
    assert said[-1] == f"(22,1) iid against {REUSE}: FID 0.000 [0.000, 0.000], not resolved."
    runs = table.run_rows(arms, metrics, finals, SEEDS)
    assert runs[0] == {"arm": BASE, "seed": 0, "fid": 2.0, "seconds": pytest.approx(1.0)}
    assert runs[5]["fid"] == final(arms[1], 2)
    figure = draw_gap(traces, runs, 0.2, {"teacher, Heun 18": 0.6, "floor": 0.5})
    assert len(figure.axes) == 3


def test_a_ratio_takes_the_updates_at_which_both_were_measured() -> None:
    base = [{"step": 10, "v": 8.0}, {"step": 20, "v": 4.0}, {"step": 30, "v": 100.0}]
    arm = [{"step": 10, "v": 2.0}, {"step": 20, "v": 4.0}, {"step": 25}]
    assert table.log_ratio(pd.DataFrame(base), pd.DataFrame(arm), "v") == pytest.approx(math.log(4) / 2)
