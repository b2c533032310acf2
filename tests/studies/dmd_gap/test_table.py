"""Ratios of variance, differences of FID and the conclusion, on made-up runs."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from carv_distill.variance import Estimate
from studies.dmd_gap import table
from studies.dmd_gap.arms import BASE, LONGER, REUSE, STRATA, seeds_of
from tests.helpers.gap_runs import MORE, PLAN, SEEDS, final, make_runs


@pytest.fixture
def study(tmp_path: Path) -> tuple[list, list, dict, pd.DataFrame]:
    """Arms, traces, finals, metrics."""
    arms = make_runs(tmp_path)
    seeds = seeds_of(arms, SEEDS, MORE)
    metrics = table.read_runs(arms, seeds, tmp_path)
    finals = {arm.name: [arm.run(seed).fid(tmp_path) for seed in seeds[arm.name]] for arm in arms}
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
    assert rows[LONGER]["fid"] == pytest.approx(1.15)


def test_the_seconds_of_a_trace_are_those_that_the_pilot_timed(study) -> None:
    """Updates times the seconds of one of the arm's: not what a busy machine took."""
    arms, traces, *_ = study
    for arm in arms:
        own = [row for row in traces if row["arm"] == arm.name]
        assert {row["seed"] for row in own} == set(MORE if arm.name in (STRATA, LONGER) else SEEDS)
        assert all(row["seconds"] == pytest.approx(row["step"] * arm.seconds) for row in own)
    longest = max(row["seconds"] for row in traces if row["arm"] == LONGER)
    assert longest == pytest.approx(600 * 0.2) == pytest.approx(400 * 0.3)


def test_the_deciding_pair_has_an_interval_of_its_own(study) -> None:
    """−0.03, −0.02, −0.01, −0.02: Student's with three degrees of freedom, t = 3.1824; the others are of
    three seeds, with eight beside them."""
    arms, _, finals, _ = study
    deciding, *beside = table.difference_rows(arms, finals)
    assert (deciding["arm"], deciding["against"]) == (STRATA, LONGER)
    assert deciding["difference"] == pytest.approx(-0.02)
    half = 3.1824 * math.sqrt(0.0002 / 3) / 2
    assert deciding["difference_high"] == pytest.approx(-0.02 + half, abs=1e-6)
    pairs = {(row["arm"], row["against"]): row for row in beside}
    assert {("(22,1) iid", REUSE), ("(40,1) iid", STRATA), (STRATA, BASE)} <= set(pairs)
    assert len(pairs) == 9
    assert pairs[REUSE, LONGER]["difference"] == pytest.approx(2 - 1.1)


def test_the_band_is_two_deviations_of_the_baseline(study) -> None:
    _, _, finals, _ = study
    assert table.band(finals) == pytest.approx(2 * math.sqrt(0.05 / 3))


@pytest.mark.parametrize(
    ("low", "high", "floor", "said"),
    [
        (-0.4, -0.1, 0.9, "Quality follows variance here."),
        (0.1, 0.4, 0.9, "The quieter gradient costs quality here."),
        (-0.1, 0.15, 0.5, "Less variance and no better FID: the paper's finding."),
        (-0.1, 0.15, None, "Less variance and no better FID: the paper's finding."),
        (-0.1, 0.15, 0.81, "Its band reaches the floor, 0.810: a better one could not be seen."),
        (-0.4, 0.2, 0.5, "Not resolved: a difference of 0.300 would have been seen half the time."),
        (-0.1, 0.3, 0.5, "Not resolved: a difference of 0.200 would have been seen half the time."),
    ],
)
def test_the_conclusion_is_the_design_s(low: float, high: float, floor: float | None, said: str) -> None:
    """With a baseline at 1 and a band of ± 0.2."""
    difference = Estimate((low + high) / 2, 0.1, low, high)
    assert table.conclusion(difference, 0.2, 1.0, floor).endswith(said)


def test_the_floor_is_that_of_real_pictures() -> None:
    assert table.floor_of({"teacher, Heun 18": 0.6, "floor": 0.5}) == 0.5
    assert table.floor_of({"floor, real pictures to test by": 0.4}) == 0.4
    assert table.floor_of({"teacher, Heun 18": 0.6}) is None


def test_every_comparison_is_said(study) -> None:
    arms, traces, finals, metrics = study
    rows, differences = table.arm_rows(arms, traces, finals), table.difference_rows(arms, finals)
    levels = {"teacher, Heun 18": 1.2, "floor": 0.5}
    said = table.sentences(rows, differences, table.band(finals), levels)
    assert said[0].startswith(f"{STRATA} against {LONGER}: FID -0.020 [-0.033, -0.007]")
    assert said[0].endswith("Quality follows variance here.")
    assert said[1] == (
        f"FID of {LONGER} 1.150 ± 0.258; beside it: teacher, Heun 18 1.200 (within its band), floor 0.500."
    )
    assert f"{REUSE}, variance of {BASE} over its own: in total 4.000 [4.000, 4.000]" in said[2]
    assert len(said) == 2 + 5 + 9
    assert said[-1] == f"(22,1) iid against {REUSE}: FID 0.000 [0.000, 0.000], not resolved."
    runs = table.run_rows(arms, metrics, finals, seeds_of(arms, SEEDS, MORE))
    assert runs[0] == {"arm": BASE, "seed": 0, "fid": 2.0, "seconds": pytest.approx(1.0)}
    assert runs[6] == {"arm": LONGER, "seed": 3, "fid": final(arms[1], 3), "seconds": pytest.approx(2.0)}


def test_a_ratio_takes_the_updates_at_which_both_were_measured() -> None:
    base = [{"step": 10, "v": 8.0}, {"step": 20, "v": 4.0}, {"step": 30, "v": 100.0}]
    arm = [{"step": 10, "v": 2.0}, {"step": 20, "v": 4.0}, {"step": 25}]
    assert table.log_ratio(pd.DataFrame(base), pd.DataFrame(arm), "v") == pytest.approx(math.log(4) / 2)
