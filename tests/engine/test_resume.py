"""Which run --resume means, and what it must have in common with the one that was started."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from carv_distill.commands.train import main
from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.environment import changed_contents
from carv_distill.engine.folder import new_folder
from carv_distill.errors import UserError
from carv_distill.tasks import load_config, open_run, run_to_resume, train
from tests.helpers.runs import as_run
from tests.helpers.small import ROOT, SMALL

MakeConfig = Callable[..., DMDConfig]


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("variance.every=1", marks=pytest.mark.slow),
        "fid.images=64",
        "checkpoint.every=1",
        pytest.param("trainer.log_every=2", marks=pytest.mark.slow),
    ],
)
def test_what_is_only_measured_or_shown_may_change(small_config: MakeConfig, key: str) -> None:
    train(small_config("trainer.max_steps=2"))
    run_to_resume(small_config("trainer.max_steps=2", key))
    with pytest.raises(UserError, match=r"dmd\.fake_lr was .* now"):
        run_to_resume(small_config("trainer.max_steps=2", key, "dmd.fake_lr=0.1"))
    with pytest.raises(UserError, match=r"now 0\.1 \(other values differ too: dmd\.ema\); a resumed"):
        run_to_resume(small_config("trainer.max_steps=2", key, "dmd.fake_lr=0.1", "dmd.ema=0.5"))


@pytest.mark.slow
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
    run_to_resume(small_config("trainer.max_steps=2", f"teacher.path={moved}"))
    assert changed_contents(run, small_config(f"teacher.path={moved}")) == []
    weights = bytearray((moved / "diffusion_pytorch_model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "diffusion_pytorch_model.safetensors").write_bytes(weights)
    assert changed_contents(run, small_config(f"teacher.path={moved}")) == ["teacher.path"]
    with pytest.raises(UserError, match=r"teacher\.path: .*moved has other content than the one that"):
        run_to_resume(small_config("trainer.max_steps=2", f"teacher.path={moved}"))
    with pytest.raises(UserError, match=r"teacher\.path: .*gone is not here any more"):
        run_to_resume(small_config("trainer.max_steps=2", f"teacher.path={tmp_path}/gone"))
    # a run that was started before contents were noted: its folder's and its own name
    environment = json.loads((run / "environment.json").read_text())
    del environment["contents"]
    (run / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(UserError, match=r"teacher\.path was .* now"):
        run_to_resume(small_config("trainer.max_steps=2", f"teacher.path={moved}"))


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
        run_to_resume(config)


def test_a_run_without_a_checkpoint_is_not_resumed(small_config: MakeConfig, tmp_path: Path) -> None:
    config = small_config("trainer.max_steps=2")
    folder = train(config)
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="ended before its first checkpoint"):
        run_to_resume(config)


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
        UserError,
        match=r"max_steps was 2 in .*over which its learning rates decay, now 4; .*one; dmd\.start says with "
        "what a student begins$",
    ):
        run_to_resume(small_config(*words, "trainer.max_steps=4"))


def test_a_run_of_text_to_3d_becomes_longer_unless_its_levels_fall_over_its_length(tmp_path: Path) -> None:
    """Lists say their own steps; only Gaussians have an option that says what they begin as."""
    words = (f"folder={tmp_path}", "trainer.max_steps=600")
    longer = "trainer.max_steps=800"
    run = as_run(load_config("sds_carv", [*words, "sds.t_max=[0,0.98,0.5,800]"]))
    assert run_to_resume(load_config("sds_carv", [*words, "sds.t_max=[0,0.98,0.5,800]", longer])) == run
    why = r"max_steps was 600 in .*, over which sds\.t_max falls to sds\.t_max_end, now 800; say .* a new one"
    for name, more, begins in (
        ("sds_carv", "sds.t_max_end=0.5", ""),
        ("sds_gaussians", "sds.t_max_end=0.5", r"; scene\.gaussians\.start says with what Gaussians begin"),
    ):
        named = (*words, f"name={name}-falls", more)
        as_run(load_config(name, list(named)))
        with pytest.raises(UserError, match=f"{why}{begins}$"):
            run_to_resume(load_config(name, [*named, longer]))


def repeated(config: DMDConfig, count: int, checkpoint: bool = True) -> list[Path]:
    """The runs that a command makes which is given so many times; a second lies between two."""
    runs = []
    for number in range(count):
        folder = new_folder(config)
        folder.rmdir()
        runs.append(as_run(replace(config, name=folder.name), checkpoint))
        os.utime(folder / "environment.json", (number, number))
    return runs


def test_the_newest_of_a_repeated_commands_runs_goes_on(
    small_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said which, and how another is chosen; a run's own configuration means that run."""
    caplog.set_level(logging.INFO)
    first, second, third = repeated(config := small_config("name=a[1]"), 3)
    assert [run.name for run in (first, second, third)] == ["a[1]", "a[1]-2", "a[1]-3"]
    as_run(small_config("name=a[1]-x"))
    assert run_to_resume(config) == third
    (said,) = caplog.messages
    assert said == (
        f"{third} goes on, the newest that fits; another by --config '{second}/config.yaml' or "
        f"'{first}/config.yaml'"
    )
    caplog.clear()
    for run in (first, second):
        own = load_config(run / "config.yaml")
        assert run_to_resume(own, run / "config.yaml") == run
    assert not caplog.messages
    os.utime(second / "environment.json", (9, 9))  # its last attempt is newest now
    assert run_to_resume(config) == second


def test_runs_that_do_not_fit_are_passed_over(small_config: MakeConfig) -> None:
    """Those of other values, and those that ended before a checkpoint; without any, why the newest is not."""
    (first,) = repeated(config := small_config(), 1)
    other = small_config("dmd.ema=0.5")
    second = as_run(replace(other, name="dmd_carv-2"))
    os.utime(second / "environment.json", (1, 1))
    third = as_run(replace(config, name="dmd_carv-3"), checkpoint=False)
    assert (run_to_resume(config), run_to_resume(other)) == (first, second)
    with pytest.raises(UserError, match=rf"dmd\.ema was 0\.98 in {third}, now 0\.7"):
        run_to_resume(small_config("dmd.ema=0.7"))
    shutil.rmtree(first)
    with pytest.raises(UserError, match=rf"{third} ended before its first checkpoint"):
        run_to_resume(config)


@pytest.mark.slow
def test_a_command_repeated_and_then_resumed(
    small_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """From the words of a command line, to the end: the second run has the further updates."""
    words = [*SMALL, f"folder={Path(small_config().folder)}"]
    command = ["--config", str(ROOT / "configs/dmd_carv.yaml"), *words]
    assert main([*command, "trainer.max_steps=2"]) == 0
    assert main([*command, "trainer.max_steps=2"]) == 0
    assert "a run named dmd_carv exists; this one is dmd_carv-2, which --resume goes on with" in caplog.text
    assert main([*command, "trainer.max_steps=4", "--resume"]) == 0
    runs = Path(small_config().folder)
    assert (runs / "dmd_carv-2/checkpoints/newest-step=4.ckpt").is_file()
    assert not (runs / "dmd_carv/checkpoints/newest-step=4.ckpt").exists()
    assert open_run(runs / "dmd_carv-2")[1].name == "dmd_carv-2"
