"""A run's folder: which one is meant, and runs of an earlier version."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.folder import product_of, remove_leftovers
from carv_distill.errors import UserError
from carv_distill.tasks import open_run, run_to_resume, train

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
        run_to_resume(config)
    task, loaded = open_run(folder)
    assert task.gradient is not None
    with pytest.raises(UserError, match=r"were written by carv-distill 0\.1\.0"):
        task.gradient(loaded, folder, "cpu", None)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("estimator:", "sampling:"))
    with pytest.raises(UserError, match=r"is a run of an earlier version: unknown key sampling"):
        open_run(folder)


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


@pytest.mark.parametrize(
    "name", ["695e0514", *(pytest.param(n, marks=pytest.mark.slow) for n in ("no", "1e-4", "007"))]
)
def test_a_run_of_any_name_is_opened_and_goes_on(name: str, small_config: MakeConfig) -> None:
    run = train(small_config(f"name={name}", "trainer.max_steps=2"))
    assert open_run(run)[1].name == run.name == name
    assert train(small_config(f"name={name}", "trainer.max_steps=4"), resume=True) == run
