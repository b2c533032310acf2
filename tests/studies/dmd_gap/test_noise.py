"""Noise that is left after averaging."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from carv_distill.variance import Estimate, mean_estimate
from studies.dmd_gap.noise import horizon, noise_left, noise_of_runs
from studies.dmd_gap.settings import DIGITS, FASHION, options_of

FIXED = replace(options_of(DIGITS), ema_ramp=False)


def test_the_average_takes_in_what_it_does_while_it_is_young() -> None:
    """1/(1 − (1 + n)/(10 + n)) = (10 + n)/9 until that is 1/(1 − ema)."""
    ramped = options_of(DIGITS)
    assert [horizon(ramped, 8, n) for n in (8, 440, 1000)] == pytest.approx([2, 50, 50])
    assert horizon(options_of(FASHION), 8, 512) == pytest.approx(58)
    assert horizon(FIXED, 8, 8) == pytest.approx(50)


def test_a_signal_that_is_not_seen_leaves_a_bound() -> None:
    """Its upper end, or where even that is below 0 its standard error, stands for it."""
    told, wide, below = (
        noise_left(100.0, Estimate(*e), 50)
        for e in ((2.0, 0.1, 1.8, 2.2), (1.0, 1.0, -1.0, 4.0), (-3.0, 0.5, -4.0, -2.0))
    )
    assert (told.value, told.least) == (1.0, False)
    assert (wide.value, wide.least) == (0.5, True)
    assert (below.value, below.least) == (4.0, True)


def runs(signals: list[list[float]]) -> list[pd.DataFrame]:
    """A run for each row, its signal at 10, 20 and 30 updates; V is 100, 400 and 900 on average."""
    found = []
    for sign, signal in zip((1, -1), signals, strict=True):
        variance = [1e9, *(v * (1 + 0.5 * sign) for v in (100.0, 400.0, 900.0)), None]
        columns = {"variance/carv/total": variance, "variance/carv/squared_norm": [1.0, *signal, None]}
        found.append(pd.DataFrame({"step": [0, 10, 20, 30, 35], **columns}))
    return found


def test_states_are_means_over_runs_before_they_are_ratios() -> None:
    """A signal of one run below 0 is no infinite noise: 100/(50 · 1), 400/(50 · 2), 900/(50 · 9)."""
    noise = noise_of_runs(runs([[1.0, 2.0, 9.0], [1.0, 2.0, 9.0]]), FIXED, 8)
    assert (noise.value, noise.least) == (pytest.approx(2), False)


def test_the_median_is_a_bound_where_states_it_hangs_on_are() -> None:
    """Two runs do not tell −1 and 5 from 0. One such state leaves the median of 2, a bound and 2 at 2,
    wherever it is; of a bound of two states and 2 it is the larger bound, and could be more."""
    one = noise_of_runs(runs([[1.0, -1.0, 9.0], [1.0, 5.0, 9.0]]), FIXED, 8)
    assert (one.value, one.least) == (pytest.approx(2), False)
    two = noise_of_runs(runs([[-1.0, -1.0, 9.0], [3.0, 5.0, 9.0]]), FIXED, 8)
    bounds = [v / (50 * mean_estimate(s).high) for v, s in ((100, [-1.0, 3.0]), (400, [-1.0, 5.0]))]
    assert max(bounds) < 2
    assert (two.value, two.least) == (pytest.approx(max(bounds)), True)
