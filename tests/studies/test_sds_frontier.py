"""The text-to-3D study: its statistics on variances and curves made up to known answers, and a real state."""

from __future__ import annotations

import csv
import math
import random
from pathlib import Path

import numpy as np
import pytest

from carv_distill.variance import Estimate, mean_estimate
from studies.sds_frontier import quality
from studies.sds_frontier.figures import draw_cameras, draw_frontier, draw_quality
from studies.sds_frontier.prices import Prices
from studies.sds_frontier.quality import BASE, Point, curves, on_grid, share_to_reach, summarise
from studies.sds_frontier.states import CAMERAS, DRAWS, RENDERS, Confirmation, Measurement, State
from studies.sds_frontier.tables import ARMS, rows, state_rows, worth
from studies.sds_frontier.verdict import confirmed, highest, verdict

FULL = quality.ARMS[2].name
BETWEEN, WITHIN = 1.0, 4.0
LEFT = dict(zip(ARMS, (1.0, 0.8, 0.7, 0.5, 0.6, 0.75, 0.2), strict=True))
"""Share of the variance within renders that each arm leaves."""
PRICES = Prices(3.0, 3.0, 0.1, {f"{r},{k}": float(r * (3 + k)) for r in (1, 2, 4) for k in (1, 2, 4, 8, 16)})


def made_up(step: int, seed: int) -> State:
    """V = V_B/R (halved by Sobol cameras) + left · V_W/(R K), in terms that scatter by a tenth."""

    def terms(value: float, key: str, count: int = 19) -> Estimate:
        rng = random.Random(f"{seed} {key}")
        scatter = [rng.gauss(0, 0.1) for _ in range(count)]
        return mean_estimate([value * (1 + s - sum(scatter) / count) for s in scatter], positive=True)

    def row(arm: str, r: int, k: int, cameras: str = "iid") -> Measurement:
        between = BETWEEN / r * (0.5 if cameras == "sobol" else 1)
        within = LEFT[arm.split(",")[0]] * WITHIN / (r * k)
        parts = terms(between + within, cameras), terms(within, cameras, 20), terms(between, cameras)
        return Measurement(arm, cameras, r, k, *parts)

    found = [row(arm, 2, k) for arm in ARMS for k in DRAWS]
    found.append(row("uniform, learned c", 2, 1))
    for cameras in CAMERAS:
        found += [row("best", r, 4, cameras) for r in RENDERS]
    found += [row("best", RENDERS[-1], k, "sobol") for k in (1, 2, 8)]
    budget = {"between": BETWEEN, "within_level": 1.0, "within_noise": 3.0}
    return State("a red ball", step, "antithetic", budget, tuple(found))


STATES = [made_up(25, 0), made_up(400, 1)]


def test_effective_compute_is_that_of_the_formula() -> None:
    """ECM(K) = (1 + ρ)(κ + 1)/[(1 + f ρ/K)(κ + K)] with ρ = 4 at κ = 3; Sobol cameras halve the 1."""
    rho = WITHIN / BETWEEN
    for arm, left in LEFT.items():
        for k in DRAWS:
            exact = (1 + rho) * 4 / ((1 + left * rho / k) * (3 + k))
            found = worth(STATES, lambda r, k: PRICES(r, k), (arm, 2, k, "iid"))
            assert found.value == pytest.approx(exact, rel=1e-9)
            assert found.low < exact < found.high or found.se < 1e-12  # same terms: the ratio is exact
    sobol = worth(STATES, lambda r, k: PRICES(r, k), ("best", 16, 4, "sobol"))
    assert sobol.value == pytest.approx((1 + rho) * 4 / ((0.5 + 0.2 * rho / 4) * 7), rel=1e-9)
    assert sobol.low < sobol.value < sobol.high


def test_rows_verdict_and_figures(tmp_path: Path) -> None:
    table = rows(STATES, PRICES)
    assert {r["states"] for r in table} == {"all", "early", "late"}
    sobol = next(r for r in table if (r["states"], r["cameras"], r["R"], r["K"]) == ("all", "sobol", 16, 4))
    assert sobol["between"] == pytest.approx(0.5)
    iw = next(r for r in table if (r["states"], r["arm"], r["K"]) == ("all", "IW", 1))
    assert (iw["re"], iw["re_within"]) == (pytest.approx(5 / 4.2), pytest.approx(1 / 0.8))
    place = highest(STATES, PRICES)
    assert place == (16, 2, "sobol")
    again = [Confirmation(mean_estimate([2.5, 2.9]), mean_estimate([0.055, 0.0575])) for _ in STATES]
    assert confirmed(again, place, PRICES).value == pytest.approx(2.7 / 0.05625 * 8 / 80)
    said = verdict(STATES, table, PRICES, place, again)
    assert "20% between renders, 20% noise level, 60% noise" in said[0]
    # the limit: (1 + ρ)(κ + 1)/κ
    assert "ECM of 6.667" in said[0]
    text = "\n".join(said)
    assert "sobol cameras at (16, 2)" in text
    # 1 + 0.4 over 0.5 + 0.4, and four renders at the price of four
    assert "of it, 1.00 is that 4 renders at a time are cheaper each, and 1.5" in text
    assert "measured anew 4.8" in text
    assert "above 3" in text
    assert "The learned ε coefficient lowers the variance with renders fixed 1" in text
    assert len(state_rows(STATES)) == sum(len(s.rows) for s in STATES)
    everything = [r for r in table if r["states"] == "all"]
    for figure in (draw_frontier(everything, 3.0), draw_cameras(everything)):
        assert figure.axes


def test_a_measurement_survives_json() -> None:
    row = STATES[0].rows[3]
    assert Measurement.from_dict(row.to_dict()).total == row.total


def test_prices_of_many_renders_are_those_of_four_at_a_time() -> None:
    assert PRICES(16, 4) == 4 * PRICES(4, 4)
    assert PRICES(2, 8, other=True) == pytest.approx(2 * 11 + 0.1)


def test_share_to_reach() -> None:
    """Over the baseline's own seconds to its level: it reaches that once, also where it stays there."""
    base = np.linspace(0, 100, quality.GRID + 1)[1:]
    assert share_to_reach(2 * base, base, 1.0) == pytest.approx(0.5)
    assert share_to_reach(base, base, 0.5) == pytest.approx(1.0)
    assert share_to_reach(0.9 * base, base, 1.0) == math.inf
    plateau = np.minimum(base, 50)
    assert share_to_reach(plateau, plateau, 1.0) == 1
    assert share_to_reach(2 * base, plateau, 1.0) == pytest.approx(0.5)


def test_curves_are_compared_at_equal_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each arm's score is 100 (1 − exp(−2 rate · seconds/T)); one of twice the rate is where the baseline
    ends after half of its seconds, whatever its steps cost."""
    monkeypatch.setattr(quality, "GRID", 100)
    rates = dict(zip([a.name for a in quality.ARMS], (1, 0.5, 2, 1, 1.25), strict=True))
    whole = 32 * PRICES(4, 1, other=True)
    for arm in quality.ARMS:
        for prompt in quality.PROMPTS:
            for seed in (0, 1):
                job = arm.job(prompt, seed, 32)
                (tmp_path / job.name).mkdir()
                with (tmp_path / job.name / "metrics.csv").open("w", newline="") as file:
                    writer = csv.writer(file)
                    writer.writerow(["step", "seconds", "clip/score"])
                    for step in range(1, arm.updates(32) + 1):
                        seconds = step * PRICES(arm.upstream, arm.draws, other=True)
                        share = 1 + 0.01 * quality.PROMPTS.index(prompt) + 0.01 * seed
                        score = 100 * share * (1 - math.exp(-2 * rates[arm.name] * seconds / whole))
                        writer.writerow([step, 7.0, score])
    points = curves(tmp_path, quality.PROMPTS, [0, 1], 32, PRICES)
    _, found = on_grid(points)
    assert found[BASE].shape == (6, 2, 100)
    table = {r["arm"]: r for r in summarise(points, 0, PRICES)}
    assert table[FULL]["share_to_final"] == pytest.approx(0.5, abs=0.02)
    assert table["(1,1) uniform"]["share_to_final"] == pytest.approx(0.8, abs=0.02)
    assert table["(1,16) IW+Strat"]["share_to_final"] is None
    assert table[FULL]["score_mean_difference_low"] > 0
    said = quality.verdict(list(table.values()))
    assert said[0].startswith("Quality, 12 runs of each arm")
    assert said[1].startswith("(1,16) IW+Strat is where it ends after more than all")
    assert "not within 0.6" in said[1]
    assert "(within 0.6)" in said[2]
    # half of the seconds at 20.1/16.1 of the price
    assert "in 0.4" in said[2]
    assert said[4].startswith("(1,2) IW+Strat, antithetic against (1,1) uniform: mean score")
    assert draw_quality(points).axes
    mean, half = quality.bands(found[BASE])
    # Of two seeds a and b: se² = Σ (a − b)²/2 over prompts, over 6 · 12; Student's quantile of 6 degrees.
    apart = found[BASE][:, 0] - found[BASE][:, 1]
    assert half == pytest.approx(2.4469 * np.sqrt((apart**2 / 2).sum(0) / 72), rel=1e-4)
    assert mean == pytest.approx(found[BASE].mean((0, 1)))


def test_a_curve_that_ends_early_is_not_stretched() -> None:
    points = [Point(BASE, "p", 0, s, float(s), float(s)) for s in range(1, 11)]
    points += [Point("short", "p", 0, s, float(s), float(s)) for s in range(1, 6)]
    grid, found = on_grid(points)
    assert np.isnan(found["short"][0, 0][grid > 5]).all()
    assert not np.isnan(found["short"][0, 0][grid <= 5]).any()
