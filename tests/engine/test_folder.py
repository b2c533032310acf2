"""A run's folder: which one is meant, and runs of an earlier version."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.environment import changed_contents
from carv_distill.engine.folder import product_of, remove_leftovers
from carv_distill.errors import UserError
from carv_distill.tasks import open_run, require_resumable, train

MakeConfig = Callable[..., DMDConfig]


def test_a_run_of_an_earlier_version_is_refused_in_one_line(small_config: MakeConfig) -> None:
    """Its checkpoints have another layout, and its configuration may have other keys."""
    config = small_config("trainer.max_steps=2")
    folder = train(config)
    environment = json.loads((folder / "environment.json").read_text())
    environment.pop("layout")
    environment["packages"]["carv-distill"] = "0.1.0"
    (folder / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(UserError, match=r"checkpoints of .* were written by carv-distill 0\.1\.0, this is"):
        require_resumable(config)
    task, loaded = open_run(folder)
    assert task.gradient is not None
    with pytest.raises(UserError, match=r"were written by carv-distill 0\.1\.0"):
        task.gradient(loaded, folder, "cpu", None)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("estimator:", "sampling:"))
    with pytest.raises(UserError, match=r"is a run of an earlier version: unknown key sampling"):
        open_run(folder)


@pytest.mark.parametrize(
    "key", ["variance.every=1", "fid.images=64", "checkpoint.every=1", "trainer.log_every=2"]
)
def test_what_is_only_measured_or_shown_may_change(small_config: MakeConfig, key: str) -> None:
    train(small_config("trainer.max_steps=2"))
    require_resumable(small_config("trainer.max_steps=2", key))
    with pytest.raises(UserError, match=r"dmd\.fake_lr was .* now"):
        require_resumable(small_config("trainer.max_steps=2", key, "dmd.fake_lr=0.1"))
    with pytest.raises(UserError, match=r"now 0\.1 \(other values differ too: dmd\.ema\); a resumed"):
        require_resumable(small_config("trainer.max_steps=2", key, "dmd.fake_lr=0.1", "dmd.ema=0.5"))


def test_a_teacher_is_known_by_its_content(
    small_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have moved; another in its place is refused."""
    config = small_config("trainer.max_steps=2")
    run = train(config)
    teacher = Path(config.teacher.path).resolve()
    moved = tmp_path / "moved"
    shutil.copytree(teacher, moved)
    (moved / ".hidden").touch()
    require_resumable(small_config("trainer.max_steps=2", f"teacher.path={moved}"))
    assert changed_contents(run, small_config(f"teacher.path={moved}")) == []
    weights = bytearray((moved / "diffusion_pytorch_model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "diffusion_pytorch_model.safetensors").write_bytes(weights)
    assert changed_contents(run, small_config(f"teacher.path={moved}")) == ["teacher.path"]
    with pytest.raises(UserError, match=r"teacher\.path: .*moved has other content than the one that"):
        require_resumable(small_config("trainer.max_steps=2", f"teacher.path={moved}"))
    with pytest.raises(UserError, match=r"teacher\.path: .*gone is not here any more"):
        require_resumable(small_config("trainer.max_steps=2", f"teacher.path={tmp_path}/gone"))
    # a run that was started before contents were noted: its folder's and its own name
    environment = json.loads((run / "environment.json").read_text())
    del environment["contents"]
    (run / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(UserError, match=r"teacher\.path was .* now"):
        require_resumable(small_config("trainer.max_steps=2", f"teacher.path={moved}"))


def test_a_renamed_run_goes_on(small_config: MakeConfig) -> None:
    config = small_config("trainer.max_steps=2")
    run = train(config)
    run.rename(run.with_name("better"))
    again = train(small_config("name=better", "trainer.max_steps=4"), resume=True)
    assert again.name == "better"
    assert "name: better" in (again / "config.yaml").read_text()
    assert open_run(again)[1].name == "better"


def test_a_run_of_another_task_under_the_name_is_told(small_config: MakeConfig) -> None:
    config = small_config("trainer.max_steps=2")
    saved = train(config) / "config.yaml"
    saved.write_text(saved.read_text().replace("task: dmd", "task: teacher"))
    with pytest.raises(UserError, match=r"task was 'teacher' in .*, now 'dmd'; a resumed run keeps"):
        require_resumable(config)


def test_a_run_without_a_checkpoint_is_not_resumed(small_config: MakeConfig, tmp_path: Path) -> None:
    config = small_config("trainer.max_steps=2")
    folder = train(config)
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="ended before its first checkpoint"):
        require_resumable(config)


def test_leftovers_of_a_killed_process_go_and_nothing_else(tmp_path: Path) -> None:
    """Half-written files and folders of every task, nested ones too; a user's own hidden folder stays."""
    for place in (
        "checkpoints/.newest-step=4.ckpt.ab12.tmp",
        ".metrics.csv.0f.tmp",
        ".object-x.tmp/unet/.a.tmp",
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    for place in (".fid.json.ab.tmp", ".git/config", "notes.tmp", "student/model_index.json"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    remove_leftovers(tmp_path, "object")
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert left == [".fid.json.ab.tmp", ".git/config", "notes.tmp", "student/model_index.json"]
    assert not (tmp_path / ".object-x.tmp").exists()


def test_a_run_without_its_environment_goes_on_and_says_so(
    small_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    run = train(small_config("trainer.max_steps=2"))
    (run / "environment.json").unlink()
    again = train(small_config("trainer.max_steps=4"), resume=True)
    assert caplog.text.count("environment.json is gone") == 1
    assert (again / "environment.json").is_file()


def test_a_length_that_rates_decay_over_says_why_it_stays(small_config: MakeConfig) -> None:
    words = ("dmd.lr_decay=student", "trainer.max_steps=2")
    train(small_config(*words))
    with pytest.raises(
        UserError, match=r"trainer.max_steps was 2 in .* \(its learning rates decay over that many\)"
    ):
        require_resumable(small_config(*words, "trainer.max_steps=4"))


def test_a_stray_copy_of_a_checkpoint_does_not_hinder_a_measurement(small_config: MakeConfig) -> None:
    run = train(small_config("trainer.max_steps=2"))
    (run / "checkpoints/newest-step=2 (copy).ckpt").touch()
    assert product_of(run, "student") == run / "student"


def test_a_damaged_summary_hinders_no_measurement(
    small_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    run = train(small_config("trainer.max_steps=2"))
    (run / "summary.json").write_text("{")
    assert product_of(run, "student") == run / "student"
    assert "of which update the product is cannot be told" in caplog.text


@pytest.mark.parametrize("name", ["695e0514", "1e-4", "007", "no"])
def test_a_run_of_any_name_is_opened_and_goes_on(name: str, small_config: MakeConfig) -> None:
    run = train(small_config(f"name={name}", "trainer.max_steps=2"))
    assert open_run(run)[1].name == run.name == name
    assert train(small_config(f"name={name}", "trainer.max_steps=4"), resume=True) == run
