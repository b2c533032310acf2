"""The rule: its noise, its border, its hits."""

from __future__ import annotations

from pathlib import Path

import pytest

from carv_distill.errors import UserError
from carv_distill.variance import Estimate
from studies.dmd_gap import rule
from studies.dmd_gap.arms import make_arms, runs_by_seed, seeds_of
from studies.dmd_gap.settings import DIGITS, FASHION
from studies.study import columns
from tests.helpers.gap_runs import PLAN


def row(data: str, noise: float, followed: bool | None) -> dict[str, object]:
    low, high = (-0.3, -0.1) if followed else (-0.1, 0.1)
    difference = columns("difference", Estimate((low + high) / 2, 0.05, low, high))
    return {
        "setting": f"{data} {noise}",
        "data": data,
        "noise_left": noise,
        "noise_exact": 10 * noise,
        "noise_left_least": False,
        "noise_exact_least": noise < 0.3,
        **difference,
        "outcome": "follows" if followed else "no better",
        "followed": followed,
    }


@pytest.mark.parametrize(
    ("points", "c"),
    [
        ([(0.1, False), (0.4, False), (1.6, True), (9.0, True)], 0.8),
        ([(0.1, False), (0.4, True), (1.6, False), (9.0, True), (10.0, True)], None),
        ([(0.1, False), (0.4, None), (1.6, True)], 0.4),
    ],
)
def test_the_border_has_the_fewest_misses(points: list[tuple[float, bool | None]], c: float | None) -> None:
    """In the second case some settings that followed have less noise than one that did not; what is not
    resolved does not count."""
    known = [(noise, followed) for noise, followed in points if followed is not None]
    found = rule.fit([row("digits", noise, followed) for noise, followed in points])
    assert found is not None
    assert c is None or found == pytest.approx(c)
    misses = sum((noise > found) != followed for noise, followed in known)
    least = min(sum((noise > b) != followed for noise, followed in known) for b in (0.2, 0.4, 0.8, 3.8, 9.5))
    assert misses == least


@pytest.mark.parametrize(
    "points",
    [
        [(1.0, True), (4.0, True)],
        [(1.0, False), (4.0, False)],
        [(1.0, True), (4.0, False)],
        [(1.0, None), (4.0, None)],
        [],
    ],
)
def test_a_border_that_says_nothing_is_none(points: list[tuple[float, bool | None]]) -> None:
    """All alike, the wrong way round, nothing resolved: always or never is as good."""
    rows = [row("digits", noise, followed) for noise, followed in points]
    assert rule.fit(rows) is None
    borders, judged = rule.judge(rows)
    assert rule.sentences(borders, judged)[0].startswith("By N: no border does better on digits than always")
    assert all(r["noise_left_holds"] is None for r in judged)


def test_the_rule_is_fitted_on_digits_alone() -> None:
    rows = [row("digits", 0.1, False), row("digits", 1.6, True), row("fashion", 0.2, True)]
    borders, judged = rule.judge([*rows, row("fashion", 3.0, None)])
    assert borders == {"noise_left": pytest.approx(0.4), "noise_exact": pytest.approx(4)}
    assert [r["noise_left_holds"] for r in judged] == [True, True, False, None]
    assert [r["noise_left_predicts"] for r in judged] == [False, True, False, True]
    said = rule.sentences(borders, judged)
    assert said[1:3] == [
        "Fitted on digits: it holds for 2 of 2 that are resolved (always: 1, never: 1).",
        "Held to other data: it holds for 0 of 1 that are resolved (always: 1, never: 0).",
    ]
    assert said[-2].endswith("N = 0.2, N* ≥ 2; difference of FID -0.20 [-0.30, -0.10], follows.")


def test_a_setting_without_the_exact_noise_is_held_to_the_other_rule_alone() -> None:
    rows = [row("digits", 0.1, False), row("digits", 1.6, True), row("fashion", 3.0, True)]
    bare = {key: value for key, value in row("prompts", 3.0, False).items() if "exact" not in key}
    borders, judged = rule.judge([*rows, bare])
    assert judged[-1]["noise_left_holds"] is False
    assert judged[-1]["noise_exact_holds"] is None
    said = rule.sentences(borders, judged)
    assert said[2].endswith("it holds for 1 of 2 that are resolved (always: 1, never: 1).")
    assert said[5].endswith("it holds for 1 of 1 that are resolved (always: 1, never: 0).")
    assert said[-1] == "prompts 3.0: N = 3; difference of FID 0.00 [-0.10, 0.10], no better."


def test_what_ended_in_nan_counts_nowhere() -> None:
    lost = {"setting": "digits, R = 2", "data": "digits", "outcome": rule.DIVERGED, "followed": None}
    rows = [row("digits", 0.1, False), row("digits", 1.6, True)]
    borders, judged = rule.judge([*rows, lost])
    assert borders["noise_left"] == pytest.approx(0.4)
    assert judged[-1]["noise_left_holds"] is None
    assert rule.sentences(borders, judged)[-1] == (
        "digits, R = 2: a training ended in NaN; it counts nowhere."
    )


def test_a_record_without_a_checkpoint_is_missed_before_the_trainings(tmp_path: Path) -> None:
    (first, *_) = pairs = rule.pairs_on(DIGITS, PLAN, make_arms(DIGITS, PLAN))
    folder = tmp_path / first.noisy.run(0).name
    folder.mkdir()
    (folder / "job.json").write_text("{}")
    with pytest.raises(UserError, match=r"digits-8-1--iid-seed0 has no checkpoint to look into; remove it"):
        rule.train(pairs, (0, 1), tmp_path, 1)


def test_the_study_s_own_runs_are_asked_for_as_it_trained_them() -> None:
    """Seeds beyond those of all arms have no FID on the way, here as there."""
    arms = make_arms(FASHION, PLAN, range(4))
    own = rule.pairs_on(FASHION, PLAN, arms)[0]
    for seed in rule.SEEDS:
        words = own.quiet.run(seed).words
        assert ("fid.every=0" in words) == (seed >= 4)
        assert words in {run.words for run in runs_by_seed(arms, seeds_of(arms, range(4), range(8)), (0,))}


def test_pairs_share_everything_but_their_draws(tmp_path: Path) -> None:
    pairs = rule.pairs_on(DIGITS, PLAN, make_arms(DIGITS, PLAN))
    assert len(pairs) == 6
    assert len(rule.pairs_on(FASHION, PLAN, make_arms(FASHION, PLAN))) == 2
    for pair in (*pairs, *rule.pairs_of_prompts()):
        noisy, quiet = (set(arm.run(0).words) for arm in (pair.noisy, pair.quiet))
        different = {word.split("=")[0] for word in noisy ^ quiet}
        allowed = {"estimator.draws", "estimator.strategy", "dmd.student_lr"}
        assert different <= allowed
    constant = pairs[1].noisy.run(0).words
    assert {"dmd.lr_decay=none", "trainer.max_steps=100"} <= set(constant)
    assert "dmd.lr_decay=both" in rule.pairs_of_prompts()[0].noisy.run(0).words
