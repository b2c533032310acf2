"""What the pilot chooses."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from carv_distill.distillation.options import DMDConfig
from carv_distill.errors import UserError
from carv_distill.files import write_json
from carv_distill.tasks import load_config
from carv_distill.variance import VarianceBudget, mean_estimate
from studies.dmd_gap import pilot
from studies.dmd_gap.arms import REUSE, Plan, make_arms, runs_by_seed, seeds_of
from studies.dmd_gap.pilot import (
    choose_factor,
    choose_length,
    equal_upstream,
    factors_on_digits,
    length_run,
    rate_run,
)
from studies.dmd_gap.settings import DIGITS, FASHION, STATES, TEXT_TO_IMAGE, Setting
from studies.runs import TrainingRun, seconds_per_update
from tests.helpers.gap_runs import PLAN


@pytest.mark.parametrize(
    ("fids", "updates"),
    [
        ({500: 1.04, 1000: 1.0, 2000: 0.5}, 500),
        ({500: 2.0, 1000: 1.04, 2000: 1.0}, 1000),
        ({500: 1.06, 1000: 1.0, 2000: 1.0}, 1000),
        ({2000: 1.0, 500: 2.0, 1000: 1.5}, 2000),
        ({40: 7.0}, 40),
    ],
)
def test_the_length_is_the_first_that_twice_the_updates_do_not_better(
    fids: dict[int, float], updates: int
) -> None:
    assert choose_length(fids) == updates


@pytest.mark.parametrize(
    ("fids", "factor"),
    [
        ({1.0: 1.04, 0.5: 1.0, 2.0: 3.0}, 1.0),
        ({1.0: 1.06, 0.5: 1.0, 2.0: 1.2}, 0.5),
        ({1.0: 2.0, 0.5: 3.0, 2.0: 1.0}, 2.0),
    ],
)
def test_a_rate_other_than_the_configuration_s_has_to_earn_it(
    fids: dict[float, float], factor: float
) -> None:
    assert choose_factor(fids) == factor


def test_equal_seconds_by_bisection() -> None:
    """The largest R within the seconds, whatever their form: here a call costs 1 and a sample 1/2."""
    for wanted, upstream in ((10.0, 18), (10.4, 18), (10.5, 19), (0.0, 8), (1e3, 136)):
        assert equal_upstream(wanted, lambda r: 1 + r / 2, 8, 136) == upstream


@pytest.mark.parametrize(("between", "within", "equal"), [(1.0, 4.0, 32), (5.0, 5.0, 15), (0.0, 1.0, 128)])
def test_single_draws_of_the_variance_of_sixteen(
    monkeypatch: pytest.MonkeyPatch, between: float, within: float, equal: int
) -> None:
    """R″ = 8 (B + W)/(B + W/16), at the state that is asked for: (R″,1) scatters as (8,16) does."""
    asked: list[object] = []
    found = SimpleNamespace(pipeline=None, parameters=[])
    monkeypatch.setattr(pilot, "load_gradient", lambda run, step: asked.append((run, step)) or found)
    parts = {
        name: mean_estimate([value, value]) for name, value in (("between", between), ("within", within))
    }
    none, total = mean_estimate([0.0, 0.0]), mean_estimate([between + within] * 2)
    budget = VarianceBudget(
        **parts, within_level=none, within_noise=none, total=total, squared_norm=none, upstreams=2
    )
    monkeypatch.setattr(VarianceBudget, "measure", lambda *_, **__: budget)
    assert pilot.equal_variance(Path("run"), 64, upstreams=2) == equal
    assert asked == [(Path("run"), 64)]
    assert (between + within) / equal == pytest.approx((between + within / 16) / 8, rel=0.04)


def test_prices_of_another_length_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have the length of the longer baseline in them."""
    monkeypatch.setattr(pilot, "try_lengths", lambda *_: {256: 2.0, 512: 1.5, 1024: 1.0})
    write_json(tmp_path / "digits-prices.json", asdict(replace(PLAN, updates=512)))
    with pytest.raises(UserError, match=r"digits-prices\.json: of trainings of 512 updates, now 1024"):
        pilot.pilot(DIGITS, tmp_path, 1, tmp_path / "digits_pilot.json")


def test_a_single_rate_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No training that chooses among one."""
    (length,) = DIGITS.quick.lengths
    monkeypatch.setattr(pilot, "try_lengths", lambda *_: {length: 2.0})
    monkeypatch.delattr(pilot, "try_rates")
    write_json(tmp_path / "digits-prices.json", asdict(replace(PLAN, updates=length)))
    plan, rows = pilot.pilot(DIGITS.quick, tmp_path, 1, tmp_path / "digits_pilot.json")
    assert (plan.base_factor, plan.reuse_factor, plan.more_factor) == (1, 1, 1)
    assert rows == [{"what": "updates", "updates": length, "fid": 2.0}]


def test_runs_of_the_pilot_are_shared_where_they_are_the_same() -> None:
    arms = {arm.name: arm for arm in make_arms(DIGITS, PLAN)}
    own = rate_run(arms[REUSE], 1.0, 100)
    assert own == length_run(DIGITS, PLAN.updates, 100)
    half = rate_run(arms[REUSE], 0.5, 100)
    assert half.name != own.name
    assert "dmd.student_lr=0.0003" in half.words


def test_arms_have_their_lengths_and_rates() -> None:
    arms = make_arms(DIGITS, PLAN)
    assert [(arm.name, arm.updates, arm.factor) for arm in arms] == [
        ("(8,1) iid", 400, 0.5),
        ("(8,1) iid, equal seconds", 600, 0.5),
        ("(8,16) iid", 400, 1.0),
        ("(8,16) stratified", 400, 1.0),
        ("(8,16) best", 400, 1.0),
        ("(40,1) iid", 400, 1.0),
        ("(22,1) iid", 400, 1.0),
    ]
    run = arms[1].run(3)
    assert {"dmd.lr_decay=student", "trainer.max_steps=600", "fid.every=75", "seed=3"} <= set(run.words)
    assert "dmd.student_lr=0.0003" in run.words
    assert "estimator.noise=antithetic" in arms[4].estimator
    assert arms[4].seconds == 0.4
    assert len(make_arms(FASHION, PLAN)) == 6


def test_all_arms_of_a_seed_come_before_the_next() -> None:
    """Further seeds are of the deciding pair alone, and have no FID on the way."""
    arms = make_arms(FASHION, PLAN, (0, 1))
    runs = runs_by_seed(arms, seeds_of(arms, (0, 1), range(4)), (0, 1))
    of_seed = [int(run.name.rsplit("-seed")[1]) for run in runs]
    assert of_seed == [0] * 6 + [1] * 6 + [2] * 2 + [3] * 2
    traced = ["fid.every=0" not in run.words for run in runs]
    assert traced == [seed < 2 for seed in of_seed]
    assert {"fid.every=100", "variance.every=100", "checkpoint.every=50"} <= set(runs[0].words)
    kept = ["checkpoint.keep_newest=16" in run.words for run in runs]
    assert kept == [run.name == "fashion-8-16--iid-seed0" for run in runs]


@pytest.mark.parametrize("setting", [DIGITS, FASHION, TEXT_TO_IMAGE, DIGITS.quick, FASHION.quick])
def test_the_states_that_are_named_are_kept(setting: Setting) -> None:
    """Of every length, and of a quarter of it: eight checkpoints, of which one is at an eighth, a quarter
    and a half."""
    for length in setting.lengths:
        for updates in (length, length // 4):
            every = updates // STATES
            kept = [*range(every, updates + 1, every)]
            assert len(kept) == STATES
            assert {updates // 8, updates // 4, updates // 2, updates} <= set(kept)


@pytest.mark.parametrize("setting", [DIGITS, FASHION, DIGITS.quick, FASHION.quick])
def test_seconds_of_an_update_can_be_told_from_what_every_arm_logs(setting: Setting) -> None:
    """A second each, and ten for a measurement."""
    for arm in (arm for n in setting.lengths for arm in make_arms(setting, replace(PLAN, updates=n))):
        config = load_config(setting.config, arm.run(0).words)
        assert isinstance(config, DMDConfig)
        every, log_every = config.variance.every, config.trainer.log_every
        steps = [n for n in range(1, arm.updates + 1) if n % every == 0 or n % log_every == 0]
        measured = [0.5 if n % every == 0 else None for n in steps]
        seconds = [n + 10.0 * ((n - 1) // every) for n in steps]
        rows = {"step": steps, "seconds": seconds, "fid/fid": measured, "variance/carv/total": measured}
        assert seconds_per_update(pd.DataFrame(rows)) == 1


def test_every_arm_is_timed_by_a_training_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By logged seconds: one second for each of R, one at a time, without measurements."""
    trained: list[TrainingRun] = []

    def train(runs: list[TrainingRun], config: Path, folder: Path, workers: int) -> None:
        assert (len(runs), workers) == (1, 1)
        trained.extend(runs)

    def metrics(run: TrainingRun, folder: Path) -> pd.DataFrame:
        upstream = next(int(w.split("=")[1]) for w in run.words if w.startswith("estimator.upstream="))
        step = range(0, 97, 8)
        return pd.DataFrame({"step": step, "seconds": [s * upstream for s in step]})

    monkeypatch.setattr(pilot, "train_all", train)
    monkeypatch.setattr(TrainingRun, "metrics", metrics)
    plan = pilot.timed(DIGITS, PLAN, tmp_path)
    assert (plan.base, plan.reuse, plan.more, plan.less, plan.best) == (8, 8, 40, 22, 8)
    assert all({"trainer.max_steps=96", "fid.every=0", "seed=100"} <= set(run.words) for run in trained)
    assert all(run.words.index("variance.every=0") > run.words.index("variance.every=12") for run in trained)


def test_fashion_takes_the_factors_of_digits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the pilot on digits chooses the rates"):
        factors_on_digits(tmp_path / "digits_pilot.json")
    plan = Plan(**{**asdict(PLAN), "more_factor": 2.0})
    (tmp_path / "digits_pilot.json").write_text(json.dumps({"plan": asdict(plan)}))
    assert factors_on_digits(tmp_path / "digits_pilot.json") == [0.5, 1.0, 2.0]
