"""CLIP scores at equal seconds, on curves made up to known answers."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from studies.sds_frontier import quality
from studies.sds_frontier.figures import draw_quality
from studies.sds_frontier.quality import BASE, curves, on_grid, share_to_reach, summarise
from tests.helpers.sds_states import PRICES

FULL = quality.ARMS[2].name


def test_share_to_reach() -> None:
    """Over the baseline's own seconds to its level: it reaches that once, also where it stays there."""
    base = np.linspace(0, 100, quality.GRID + 1)[1:]
    assert share_to_reach(2 * base, base, 1.0) == pytest.approx(0.5)
    assert share_to_reach(base, base, 0.5) == pytest.approx(1.0)
    assert share_to_reach(0.9 * base, base, 1.0) == math.inf
    plateau = np.minimum(base, 50)
    assert share_to_reach(plateau, plateau, 1.0) == 1
    assert share_to_reach(2 * base, plateau, 1.0) == pytest.approx(0.5)


@pytest.mark.slow
def test_curves_are_compared_at_equal_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each arm's score is 100 (1 − exp(−2 rate · seconds/T)); one of twice the rate is where the baseline
    ends after half of its seconds, whatever its steps cost."""
    monkeypatch.setattr(quality, "GRID", 100)
    rates = dict(zip([a.name for a in quality.ARMS], (1, 0.5, 2, 1, 1.25), strict=True))
    whole = 32 * PRICES.step(4, 1)
    for arm in quality.ARMS:
        for prompt in quality.PROMPTS:
            for seed in (0, 1):
                run = arm.run(prompt, seed, 32)
                (tmp_path / run.name).mkdir()
                with (tmp_path / run.name / "metrics.csv").open("w", newline="") as file:
                    writer = csv.writer(file)
                    writer.writerow(["step", "seconds", "clip/score"])
                    for step in range(1, arm.updates(32) + 1):
                        seconds = step * PRICES.step(arm.upstream, arm.draws)
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
    assert "12 runs of each arm" in said[0]
    assert "until (1,16) IW+Strat is where that ends: never [" in said[1]
    assert "not within 0.6" in said[1]
    assert "within 0.6;" in said[2]
    # half of the seconds at 20.1/16.1 of the price
    assert "(0.4" in said[2]
    assert said[6].startswith("Mean score over the seconds against (1,1) uniform: (1,2) IW+Strat, antithetic")
    assert draw_quality(points).axes
    mean, half = quality.bands(found[BASE])
    # Of two seeds a and b: se² = Σ (a − b)²/2 over prompts, over 6 · 12; Student's quantile of 6 degrees.
    apart = found[BASE][:, 0] - found[BASE][:, 1]
    assert half == pytest.approx(2.4469 * np.sqrt((apart**2 / 2).sum(0) / 72), rel=1e-4)
    assert mean == pytest.approx(found[BASE].mean((0, 1)))


def test_a_curve_that_ends_early_is_not_stretched() -> None:
    ends = {BASE: 11, "short": 6}
    rows = [(arm, "p", 0, s, float(s), float(s)) for arm, end in ends.items() for s in range(1, end)]
    columns = ["arm", "prompt", "seed", "step", "seconds", "score"]
    grid, found = on_grid(pd.DataFrame(rows, columns=columns))
    assert np.isnan(found["short"][0, 0][grid > 5]).all()
    assert not np.isnan(found["short"][0, 0][grid <= 5]).any()
