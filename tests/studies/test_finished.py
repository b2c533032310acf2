"""What a finished training was made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from carv_distill.errors import UserError
from studies import runs
from studies.finished import difference, finish, made_of
from studies.runs import TrainingRun, train_all

CONFIG = "task: dmd\nteacher:\n  path: {teacher}\nfid:\n  reference: nowhere.npz\n"


def inputs(folder: Path) -> Path:
    """A configuration and its teacher."""
    (folder / "teacher").mkdir()
    (folder / "teacher/config.json").write_text("{}")
    config = folder / "c.yaml"
    config.write_text(CONFIG.format(teacher=folder / "teacher"))
    return config


def test_a_finished_run_is_of_its_configuration_and_its_teacher(tmp_path: Path) -> None:
    """Comments do not count, nor does what is kept on the way; all that a training reads does."""
    config, run, words = inputs(tmp_path), tmp_path / "run", ["a=1", "checkpoint.every=4"]
    made = made_of(config, words)
    assert list(made) == ["configuration", str(tmp_path / "teacher")]
    finish(run, words, made, 5)
    config.write_text("# a comment\n" + config.read_text())
    assert difference(run, ["a=1", "checkpoint.every=8"], made_of(config, words), 5) is None
    assert difference(run, words, made, 0) is None
    assert difference(run, ["a=2"], made, 5) == "was trained with other words"
    assert difference(run, words, made, 3) == "has a FID over 5 ranges of seeds, wanted 3,"
    (tmp_path / "teacher/config.json").write_text('{"more": 1}')
    changed = made_of(config, words)
    assert difference(run, words, changed, 5) == f"was trained with another {tmp_path / 'teacher'}"
    config.write_text(config.read_text().replace("task: dmd", "task: sds"))
    changed = made_of(config, words)
    assert difference(run, words, changed, 5) == "was trained with another configuration"


def test_a_teacher_by_an_overridden_key_counts(tmp_path: Path) -> None:
    config = inputs(tmp_path)
    (other := tmp_path / "other").mkdir()
    (other / "config.json").write_text("{}")
    assert list(made_of(config, [f"teacher.path={other}"])) == ["configuration", str(other)]


def test_a_record_from_before_is_taken_as_it_is(tmp_path: Path) -> None:
    config = inputs(tmp_path)
    (tmp_path / "job.json").write_text('{"words": ["a=1"]}')
    assert difference(tmp_path, ["a=1"], made_of(config, ["a=1"]), 5) is None


def test_a_record_of_another_teacher_ends_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than be taken for this one's; nothing is called, nothing removed."""
    config, calls = inputs(tmp_path), []
    monkeypatch.setattr(runs, "_python", lambda *words: calls.append(words))
    run = TrainingRun("run", ("a=1",))
    train_all([run], config, tmp_path, 1)
    assert len(calls) == 1
    (tmp_path / "teacher/config.json").write_text('{"more": 1}')
    with pytest.raises(UserError, match=r"run was trained with another .*teacher and has no checkpoint"):
        train_all([run], config, tmp_path, 1)
    assert len(calls) == 1
    assert (tmp_path / "run/job.json").is_file()
