"""Effective compute of variances made up to known answers."""

from __future__ import annotations

import pandas as pd
import pytest

from carv_distill.variance import mean_estimate
from studies.sds_frontier.figures import draw_cameras, draw_frontier
from studies.sds_frontier.states import DRAWS
from studies.sds_frontier.worth import confirmed, ecm, ecm_rows, highest, state_rows, verdict
from tests.helpers.sds_states import BETWEEN, LEFT, PRICES, STATES, WITHIN


def test_effective_compute_is_that_of_the_formula() -> None:
    """ECM(K) = (1 + ρ)(κ + 1)/[(1 + f ρ/K)(κ + K)] with ρ = 4 at κ = 3; Sobol cameras halve the 1."""
    rho = WITHIN / BETWEEN
    for arm, left in LEFT.items():
        for k in DRAWS:
            exact = (1 + rho) * 4 / ((1 + left * rho / k) * (3 + k))
            found = ecm(STATES, PRICES, arm, 2, k, "iid")
            assert found.value == pytest.approx(exact, rel=1e-9)
            assert found.low < exact < found.high or found.se < 1e-12  # same terms: the ratio is exact
    sobol = ecm(STATES, PRICES, "best", 16, 4, "sobol")
    assert sobol.value == pytest.approx((1 + rho) * 4 / ((0.5 + 0.2 * rho / 4) * 7), rel=1e-9)
    assert sobol.low < sobol.value < sobol.high


@pytest.mark.slow
def test_rows_and_figures() -> None:
    table = ecm_rows(STATES, PRICES)
    assert {r["states"] for r in table} == {"all", "early", "late"}
    sobol = next(r for r in table if (r["states"], r["cameras"], r["R"], r["K"]) == ("all", "sobol", 16, 4))
    assert sobol["between"] == pytest.approx(0.5)
    iw = next(r for r in table if (r["states"], r["arm"], r["K"]) == ("all", "IW", 1))
    assert (iw["re"], iw["re_within"]) == (pytest.approx(5 / 4.2), pytest.approx(1 / 0.8))
    assert len(state_rows(STATES)) == len(STATES)
    everything = pd.DataFrame([r for r in table if r["states"] == "all"])
    for figure in (draw_frontier(everything, 3.0), draw_cameras(everything)):
        assert figure.axes


@pytest.mark.slow
def test_sentences_say_the_numbers() -> None:
    best = highest(STATES, PRICES)
    assert best == (16, 2, "sobol")
    again = [(mean_estimate([2.5, 2.9]), mean_estimate([0.055, 0.0575]))] * 2
    assert confirmed(again, best, PRICES).value == pytest.approx(2.7 / 0.05625 * 8 / 80)
    budgets = pd.DataFrame([{"between": BETWEEN, "within_level": 1.0, "within_noise": 3.0}] * 2)
    said = verdict(STATES, budgets, ecm_rows(STATES, PRICES), PRICES, best, again)
    assert "20% between renders, 20% noise level, 60% noise" in said[0]
    # the limit: (1 + ρ)(κ + 1)/κ
    assert "6.667" in said[1]
    text = "\n".join(said)
    assert "best with sobol cameras at (16, 2): as chosen" in text
    # 1 + 0.4 over 0.5 + 0.4, and four renders at the price of four
    assert "Of it, 4 renders at a time make 1.00, and: the cameras 1.5" in text
    assert "anew 4.8" in text
    assert "above 3" in text
    assert "Renders fixed, variance over that with the learned ε coefficient: K = 1 1" in text
