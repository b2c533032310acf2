"""Products made anew, as they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from carv_distill.commands.evaluate import main
from carv_distill.commands.export import ExportOptions
from carv_distill.errors import UserError
from carv_distill.tasks import TASKS, load_config
from carv_distill.text_to_3d.options import SDSConfig
from tests.helpers.small import ROOT


def sds() -> SDSConfig:
    config = load_config(ROOT / "configs/sds_carv.yaml", [])
    assert isinstance(config, SDSConfig)
    return config


def test_what_is_given_takes_the_place_of_what_the_run_says() -> None:
    config, before = sds(), sds().export
    options = ExportOptions(size=512, frames=120, background="white", texture=0, memory=2.5)
    options.apply(Path("runs/a"), TASKS["sds"], config)
    now = config.export
    assert (now.size, now.frames, now.background, now.texture, now.memory) == (512, 120, "white", 0, 2.5)
    assert (now.mesh, now.faces, now.part) == (before.mesh, before.faces, before.part)
    ExportOptions().apply(Path("runs/a"), TASKS["sds"], unchanged := sds())
    assert unchanged.export == before


@pytest.mark.parametrize("task", [task for task in TASKS.values() if not task.renders], ids=lambda t: t.name)
def test_sizes_of_what_is_no_object_are_refused(task: object) -> None:
    config = object()
    for options, flags in (
        (ExportOptions(size=512), "--size: "),
        (ExportOptions(frames=20, mesh=64), "--frames, --mesh: "),
        (ExportOptions(texture=0), "--texture: "),
    ):
        said = f"^{flags}of objects alone; runs/a is of task {task.name}, which makes a {task.product}$"  # type: ignore[attr-defined]
        with pytest.raises(UserError, match=said):
            options.apply(Path("runs/a"), task, config)  # type: ignore[arg-type]
    ExportOptions(step=4).apply(Path("runs/a"), task, config)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "4"], "argument --size: '4' is not a whole number from 16 on"),
        (["--frames", "7"], "argument --frames: '7' is not a whole number from 8 on"),
        (["--mesh", "many"], "argument --mesh: 'many' is not a whole number from 8 on"),
        (["--texture", "20000"], "argument --texture: '20000' is not a whole number from 0 to 16384"),
        (["--background", "random"], "argument --background: invalid choice: 'random'"),
        (["--memory", "nan"], "argument --memory: 'nan' is not a number from 0 on"),
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
        ExportOptions(memory=0.0).apply(Path("runs/a"), TASKS["sds"], sds())
