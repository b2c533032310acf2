"""What there is to see of a run, as its folder changes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from carv_distill.errors import UserError
from carv_distill.tasks import open_run
from carv_distill.text_to_3d.options import SDSConfig
from carv_distill.text_to_3d.scene_files import load_scene
from carv_distill.text_to_3d.viewer import states
from carv_distill.text_to_3d.viewer.states import Newest, State, last_score, load_state


@pytest.fixture
def run(viewed_run: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    shutil.copytree(viewed_run, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def config_of(run: Path) -> SDSConfig:
    _, config = open_run(run)
    assert isinstance(config, SDSConfig)
    return config


def newest(run: Path) -> Newest:
    return Newest(run, config_of(run), "cpu")


def assert_same_scene(a: torch.nn.Module, b: torch.nn.Module) -> None:
    left, right = a.state_dict(), b.state_dict()
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


@pytest.mark.slow
def test_the_scene_is_that_of_the_newest_checkpoint_and_without_any_that_of_the_object(run: Path) -> None:
    state = load_state(run, config_of(run), "cpu")
    assert state.step == 6
    assert_same_scene(state.scene, load_scene(run / "object")[0])
    (run / "checkpoints/newest-step=6.ckpt").unlink()
    earlier = load_state(run, config_of(run), "cpu")
    assert earlier.step == 4
    with pytest.raises(AssertionError):
        assert_same_scene(earlier.scene, state.scene)
    shutil.rmtree(run / "checkpoints")
    product = load_state(run, config_of(run), "cpu")
    assert product.step == 6
    assert_same_scene(product.scene, state.scene)


def test_each_checkpoint_and_mesh_is_given_once(run: Path) -> None:
    last = (run / "checkpoints/newest-step=6.ckpt").rename(run / "later")
    looks = newest(run)
    first = looks.state()
    assert first is not None
    assert (first.step, looks.state()) == (4, None)
    os.replace(last, run / "checkpoints/newest-step=6.ckpt")  # as a run's are written
    second = looks.state()
    assert second is not None
    assert (second.step, looks.state()) == (6, None)
    assert looks.mesh() == (run / "object/mesh.glb").read_bytes()
    assert looks.mesh() is None


def test_a_damaged_checkpoint_is_passed_over_and_an_only_one_is_said_once(run: Path) -> None:
    (run / "checkpoints/newest-step=6.ckpt").write_bytes(b"PK")
    looks = newest(run)
    state = looks.state()
    assert state is not None
    assert state.step == 4
    (run / "checkpoints/newest-step=4.ckpt").unlink()
    with pytest.raises(UserError, match="holds no checkpoint"):
        looks.state()
    assert looks.state() is None


def test_a_file_that_is_replaced_while_it_is_read_breaks_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = newest(run)

    def gone(*_: object) -> State:
        (run / "checkpoints/newest-step=4.ckpt").unlink()
        raise UserError("newest-step=4.ckpt cannot be read now")

    with monkeypatch.context() as patched:
        patched.setattr(states, "load_state", gone)
        assert looks.state() is None
    state = looks.state()
    assert state is not None
    assert state.step == 6


def test_what_the_panel_says(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = newest(run)
    state = looks.state()
    assert state is not None
    facts = looks.facts(state)
    assert facts.update == "6 of 6"
    assert facts.score == last_score(run / "metrics.csv")
    assert facts.score.endswith("] at update 6")
    assert facts.activity == "finished"
    assert looks.facts(State(state.scene, 4)).activity == "stopped; --resume goes on"
    assert looks.facts(None).activity == "it ended before that"
    monkeypatch.setattr(states, "is_owned", lambda folder: True)
    assert looks.facts(state).activity == "a process works on it"
    assert looks.facts(None).update == "seen from 2 on"
    assert looks.facts(None).activity == "a process works on it"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            "step,clip/score,clip/score_low,clip/score_high\n3,81.26,80.04,82\n5,,,\n",
            "81.3 [80.0, 82.0] at update 3",
        ),
        ("step,clip/score\n3,81\n", "81.0 at update 3"),
        ("step,seconds\n3,1.5\n", "not measured yet"),
    ],
)
def test_the_last_score_has_its_interval_and_its_update(rows: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(rows)
    assert last_score(tmp_path / "metrics.csv") == said
    assert last_score(tmp_path / "none.csv") == "not measured yet"
