"""The rule: its noise, its border, its hits."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from studies.dmd_gap import rule
from studies.dmd_gap.settings import DIGITS, FASHION
from tests.helpers.gap_runs import PLAN


def row(data: str, noise: float, followed: bool) -> dict[str, object]:
    low, high = (-0.3, -0.1) if followed else (-0.1, 0.1)
    difference = {"difference": (low + high) / 2, "difference_low": low, "difference_high": high}
    return {
        "setting": f"{data} {noise}",
        "data": data,
        "noise_left": noise,
        **difference,
        "followed": followed,
    }


def test_the_noise_left_is_that_of_the_average() -> None:
    """V/(H|Eg|²) with H = 50: 2, 4 and, without a signal that is seen, very much."""
    metrics = pd.DataFrame(
        {
            "step": [0, 10, 15, 20, 30],
            "variance/carv/total": [1e9, 100.0, None, 400.0, 100.0],
            "variance/carv/squared_norm": [1.0, 1.0, None, 2.0, -3.0],
        }
    )
    assert rule.noise_left(metrics, 0.98) == pytest.approx(4)


@pytest.mark.parametrize(
    ("points", "c"),
    [
        ([(0.1, False), (0.4, False), (1.6, True), (9.0, True)], 0.8),
        ([(0.1, False), (0.4, True), (1.6, False), (9.0, True), (10.0, True)], 3.794733),
        ([(1.0, True), (4.0, True)], 0.7071068),
    ],
)
def test_the_border_has_the_fewest_misses(points: list[tuple[float, bool]], c: float) -> None:
    """In the second case some settings that followed have less noise than one that did not."""
    rows = [row("digits", noise, followed) for noise, followed in points]
    found = rule.fit(rows)  # type: ignore[arg-type]
    misses = sum((noise > found) != followed for noise, followed in points)
    assert misses == min(
        sum((noise > b) != followed for noise, followed in points) for b in (0.01, 0.2, 0.8, 3.8, 9.5, 100.0)
    )
    if misses == 0:
        assert found == pytest.approx(c, rel=1e-5)


def test_the_rule_is_fitted_on_digits_alone() -> None:
    rows = [row("digits", 0.1, False), row("digits", 1.6, True), row("fashion", 0.2, True)]
    c, judged = rule.judge(rows)
    assert c == pytest.approx(0.4)
    assert [r["held"] for r in judged] == [True, True, False]
    said = rule.sentences(c, judged)
    assert said[1:3] == ["Fitted on digits: it holds for 2 of 2.", "Held to other data: it holds for 0 of 1."]
    assert said[-1].endswith("difference of FID -0.20 [-0.30, -0.10], follows: miss.")


def test_pairs_share_everything_but_their_draws(tmp_path: Path) -> None:
    pairs = rule.pairs_on(DIGITS, PLAN)
    assert len(pairs) == 6
    assert len(rule.pairs_on(FASHION, PLAN)) == 2
    for pair in (*pairs, *rule.pairs_of_prompts()):
        noisy, quiet = (set(arm.run(0).words) for arm in (pair.noisy, pair.quiet))
        different = {word.split("=")[0] for word in noisy ^ quiet}
        allowed = {"estimator.draws", "estimator.strategy", "dmd.student_lr"}
        assert different <= allowed
    constant = pairs[1].noisy.run(0).words
    assert {"dmd.lr_decay=none", "trainer.max_steps=100"} <= set(constant)
    assert "dmd.lr_decay=both" in rule.pairs_of_prompts()[0].noisy.run(0).words
