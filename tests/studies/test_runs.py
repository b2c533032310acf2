"""Many training runs side by side."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from carv_distill.errors import UserError
from studies import runs
from studies.runs import Commands, TrainingRun, seconds_per_update, train_all
from tests.helpers.locks import hold

CONFIG = Path("configs/dmd_carv.yaml")


def test_time_per_update_leaves_measurements_out() -> None:
    rows: list[dict[str, float]] = [
        {"step": s, "seconds": 0.5 * s + (100 if s > 40 else 0)} for s in range(10, 90, 10)
    ]
    rows[3]["fid/fid"] = 1.0
    assert seconds_per_update(pd.DataFrame(rows)) == pytest.approx(0.5)
    with pytest.raises(UserError, match="too few"):
        seconds_per_update(pd.DataFrame(rows[:2]))


def test_a_failed_run_is_one_line_that_names_it(tmp_path: Path) -> None:
    wrong = TrainingRun("wrong", ("estimator.draws=0",))
    with pytest.raises(UserError, match=r"run wrong: estimator\.draws: 0 is below"):
        train_all([wrong], CONFIG, tmp_path, 1)


def test_studies_start_at_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"train\.py: not in the current folder"):
        train_all([], CONFIG, tmp_path, 1)


def test_an_unfinished_run_goes_on_and_a_finished_one_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is called: train.py anew, with --resume where there is a checkpoint; evaluate.py once."""
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(runs, "_python", lambda commands, run, *words: calls.append((run.name, *words)))
    (config := tmp_path / "c.yaml").write_text("a: 0\n")
    for name, content in (("fresh", ()), ("cut", ("newest-step=2.ckpt",)), ("empty", ())):
        if name != "fresh":
            (tmp_path / name / "checkpoints").mkdir(parents=True)
        for file in content:
            (tmp_path / name / "checkpoints" / file).touch()
    (tmp_path / "cut/fid.json").touch()
    train_all([TrainingRun(n, ("a=1",)) for n in ("fresh", "cut", "empty")], config, tmp_path, 1, ranges=3)
    resumed = {c[0]: "--resume" in c for c in calls if c[1] == "train.py"}
    assert resumed == {"fresh": False, "cut": True, "empty": False}
    assert [c[0] for c in calls if c[1] == "evaluate.py"] == ["fresh", "empty"]
    calls.clear()
    train_all([TrainingRun(n, ("a=1",)) for n in ("fresh", "cut")], config, tmp_path, 1, ranges=3)
    assert not calls
    train_all(
        [TrainingRun("cut", ("a=2",))], config, tmp_path, 1, ranges=3
    )  # other words: it goes on, and is evaluated anew
    assert [c[1] for c in calls] == ["train.py", "evaluate.py"]
    calls.clear()
    train_all([TrainingRun("cut", ("a=2", "checkpoint.every=3"))], config, tmp_path, 1, ranges=3)
    assert not calls  # what is kept on the way changes nothing


def test_a_record_without_a_checkpoint_is_not_trained_over(tmp_path: Path) -> None:
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/job.json").write_text('{"words": ["a=1"]}')
    with pytest.raises(UserError, match="cut was trained with other words and has no checkpoint"):
        train_all([TrainingRun("cut", ("a=2",))], CONFIG, tmp_path, 1)
    assert (tmp_path / "cut/job.json").is_file()


def test_a_run_that_is_being_trained_is_not_removed(tmp_path: Path) -> None:
    """By another study, say, and without a checkpoint so far."""
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy/metrics.csv").write_text("step\n")
    other = hold(tmp_path / "busy")
    with pytest.raises(UserError, match=r"busy is in use: another"):
        train_all([TrainingRun("busy", ("a=1",))], CONFIG, tmp_path, 1)
    other.communicate()
    assert (tmp_path / "busy/metrics.csv").is_file()


def test_no_command_outlives_one_that_failed() -> None:
    """It is told to stop, and keeps what it has; none is started after it."""
    begin = time.monotonic()
    with Commands() as commands:
        other = threading.Thread(target=commands.run, args=("-c", "import time; time.sleep(60)"))
        other.start()
        while not commands.running:
            time.sleep(0.01)
    other.join()
    assert time.monotonic() - begin < 30
    with pytest.raises(UserError, match="stopped, as another"):
        commands.run("-c", "")


def test_a_run_that_ends_in_nan_may_be_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is allowed, once; another fault ends the study all the same."""
    calls, fault = [], "non-finite loss of the student network at step 7"

    def fail(commands: Commands, run: TrainingRun, *words: str) -> None:
        calls.append(run.name)
        (tmp_path / run.name).mkdir(exist_ok=True)
        raise UserError(f"run {run.name}: {fault}")

    monkeypatch.setattr(runs, "_python", fail)
    fast = TrainingRun("fast", ("a=1",))
    for _ in range(2):
        train_all([fast], CONFIG, tmp_path, 1, may_diverge=True)
    assert calls == ["fast"]
    assert fast.fid(tmp_path) == math.inf
    other = TrainingRun("other", ())
    with pytest.raises(UserError, match="run other: non-finite"):
        train_all([other], CONFIG, tmp_path, 1)
    fault = "no space left on device"
    with pytest.raises(UserError, match="run other: no space"):
        train_all([other], CONFIG, tmp_path, 1, may_diverge=True)
