"""The study's rows and sentences, on made-up budgets and races."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from carv_distill.files import read_json, write_json
from carv_distill.variance import Estimate, VarianceBudget, mean_estimate
from studies.sds_entropy import figures, regime
from studies.sds_entropy.__main__ import main
from studies.sds_entropy.figures import draw_regime
from studies.sds_entropy.regime import ARMS, KAPPA, quality_rows, regime_rows, sentences


def budget(between: float, within: float, error: float = 0.05, seed: int = 0) -> VarianceBudget:
    """Of 120 samples, each part with this relative error of its own."""
    g = np.random.default_rng(seed)

    def about(value: float) -> Estimate:
        terms = g.standard_normal(120)
        spread = error * np.sqrt(120) / terms.std(ddof=1)
        return mean_estimate((value * (1 + spread * (terms - terms.mean()))).tolist())

    halves = about(within / 2), about(within / 2)
    return VarianceBudget(about(between), *halves, about(within), about(between + within), about(0.1), 120)


def test_all_arms_cost_the_same() -> None:
    assert {times * upstream * (KAPPA + draws) for upstream, draws, times in ARMS.values()} == {20.0}


def test_the_regime_is_that_of_the_formula() -> None:
    small, large = regime_rows({0.2: [budget(1, 1), budget(4, 4)], 0.9: [budget(1, 20), budget(2, 40)]})
    assert small["within_over_between"] == pytest.approx(1)
    assert large["within_over_between"] == pytest.approx(20)
    assert large["ecm_8"] == pytest.approx(21 * 5 / ((1 + 20 / 8) * 12), abs=1e-3)
    assert small["best_draws"] == 2
    assert large["best_draws"] == 8


def test_objects_that_share_their_random_numbers_are_no_more_than_one() -> None:
    """√2 · 5 % of the ratio of one; two that are measured apart would have half as much."""
    one, same, apart = regime_rows(
        {0.1: [budget(1, 2)], 0.2: [budget(1, 2), budget(2, 4)], 0.3: [budget(1, 2), budget(1, 2, seed=1)]}
    )
    (of_one, of_same, of_two) = (row["within_over_between_se"] for row in (one, same, apart))
    assert of_one == pytest.approx(2 * 0.05 * math.sqrt(2), rel=0.2)
    assert of_same == pytest.approx(of_one, rel=0.02)
    assert of_two == pytest.approx(of_one / math.sqrt(2), rel=0.25)


def test_a_part_that_is_not_told_from_zero_makes_no_ratio() -> None:
    (row,) = regime_rows({0.9: [budget(1, 20), budget(0.1, 20, error=0.6)]})
    assert "within_over_between" not in row
    assert "W/B not resolved" in sentences([row], [])[0]


def test_errors_are_compared_in_pairs_over_the_last_third() -> None:
    def race(level: float, scatter: float) -> list[float]:
        return [9.0, 9.0, 9.0, 9.0, level * scatter, level * scatter]

    runs = {
        arm: [race(level ** (1 + s / 100), s) for s in (1.0, 2.0, 3.0)]
        for arm, level in zip(ARMS, (1.0, 0.8, 0.3), strict=True)
    }
    rows = quality_rows({0.9: runs})
    assert [row["arm"] for row in rows] == list(ARMS)
    assert "over_4_1" not in rows[0]
    assert rows[1]["over_4_1"] == pytest.approx(0.8**1.02)
    assert rows[2]["over_4_1"] == pytest.approx(0.3**1.02)
    assert rows[0]["error"] == pytest.approx(6 ** (1 / 3))
    regime = regime_rows({0.9: [budget(1, 20)]})
    (said,) = sentences(regime, rows)
    assert "(1,16) over (4,1) 0.796" in said
    assert "(1,1) over (4,1) 0.2929" in said  # what contradicts a story about reuse stands beside it
    figure = draw_regime(regime, rows)
    assert all(math.isfinite(v) for line in figure.axes[2].lines for v in line.get_ydata())


def test_one_part_stands_beside_what_the_other_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"spread": 0.9, "arm": "(1,16)", "error": 1.0}]
    rows[0] |= {"over_4_1": 0.8, "over_4_1_se": 0.05, "over_4_1_low": 0.7, "over_4_1_high": 0.9}
    write_json(tmp_path / "sds_entropy/quality.json", {"rows": rows})
    monkeypatch.setattr(regime, "budgets", lambda *_: {0.9: [budget(1, 20)]})
    monkeypatch.setattr(figures, "draw_regime", lambda *_: Figure())
    assert main(["--part", "regime", "--out", str(tmp_path), "--runs", str(tmp_path)]) == 0
    (said,) = read_json(tmp_path / "sds_entropy/regime.json")["verdict"]
    assert "W/B 20" in said
    assert "error of (1,16) over (4,1) 0.80 [0.70, 0.90]" in said
