"""Products made anew, as they are asked for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from carv_distill.commands.evaluate import main
from carv_distill.commands.export import EXPORT, ExportOptions
from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.task import Task
from carv_distill.errors import UserError
from carv_distill.tasks import TASKS, load_config, train
from carv_distill.text_to_3d.options import SDSConfig
from tests.helpers.runs import as_run
from tests.helpers.small import ROOT


def sds() -> SDSConfig:
    config = load_config(ROOT / "configs/sds_carv.yaml", [])
    assert isinstance(config, SDSConfig)
    return config


def test_what_is_given_takes_the_place_of_what_the_run_says() -> None:
    config, before = sds(), sds().export
    ExportOptions(size=512, frames=120, background="white", texture=0, memory=2.5).apply(config)
    now = config.export
    assert (now.size, now.frames, now.background, now.texture, now.memory) == (512, 120, "white", 0, 2.5)
    assert (now.mesh, now.faces, now.part) == (before.mesh, before.faces, before.part)
    ExportOptions().apply(unchanged := sds())
    assert unchanged.export == before


@pytest.mark.parametrize("task", [task for task in TASKS.values() if not task.renders], ids=lambda t: t.name)
def test_sizes_of_what_is_no_object_are_refused(task: Task) -> None:
    for options, flags in (
        (ExportOptions(size=512), "--size: "),
        (ExportOptions(frames=20, mesh=64), "--frames, --mesh: "),
        (ExportOptions(texture=0), "--texture: "),
    ):
        said = f"{flags}of objects alone; this run is of task {task.name}, which makes a {task.product}"
        assert EXPORT.refusal(task, None, options) == said
        assert not EXPORT.refusal(TASKS["sds"], None, options)
    assert not EXPORT.refusal(task, None, ExportOptions(step=4))


def test_sizes_mean_the_newest_object(tmp_path: Path) -> None:
    runs = [as_run(load_config(name, [f"folder={tmp_path}"])) for name in ("sds_carv", "dmd_carv")]
    for number, run in enumerate(runs):
        os.utime(run / "environment.json", (number, number))
    assert EXPORT.newest(ExportOptions(runs=tmp_path)) == runs[1]
    assert EXPORT.newest(ExportOptions(runs=tmp_path, size=64)) == runs[0]


@pytest.mark.slow
def test_it_is_said_which_folder_is_new_and_of_which_update(
    small_config: Callable[..., DMDConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(small_config("trainer.max_steps=4"))
    words = ["export", "--run", str(run), "--device", "cpu"]
    page = f"a page to open: {run}/report.html\n"
    for more, said in (
        (["--step", "2"], "update 2 of 4, in place of that of update 4"),
        ([], "update 4 of 4, in place of that of update 2"),
    ):
        assert main([*words, *more]) == 0
        made = f"made anew: {run}/student, from the checkpoint of {said}\n"
        assert capsys.readouterr().out == made + page
    shutil.rmtree(run / "student")
    assert main(words) == 0
    made = f"made anew: {run}/student, from the checkpoint of update 4 of 4\n"
    assert capsys.readouterr().out == made + page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "4"], "argument --size: '4' is not a whole number from 16 on"),
        (["--frames", "7"], "argument --frames: '7' is not a whole number from 8 on"),
        (["--mesh", "many"], "argument --mesh: 'many' is not a whole number from 8 on"),
        (["--texture", "20000"], "argument --texture: '20000' is not a whole number from 0 to 16384"),
        (["--background", "random"], "argument --background: invalid choice: 'random'"),
        (["--memory", "nan"], "argument --memory: 'nan' is not a number above 0"),
    ],
)
def test_values_that_are_not_allowed_are_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["export", *words])
    error = capsys.readouterr().err
    assert (end.value.code, len(error.splitlines())) == (2, 1)
    assert said in error


def test_no_memory_at_all_is_not_allowed() -> None:
    with pytest.raises(UserError, match=r"export.memory: 0.0 is not above 0"):
        ExportOptions(memory=0.0).apply(sds())
