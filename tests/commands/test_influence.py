"""evaluate.py influence: which run is meant, and what leads on where it cannot be."""

from __future__ import annotations

import logging
import os
import shlex
from pathlib import Path

import pytest

from carv_distill.commands.evaluate import main
from carv_distill.commands.influence import INFLUENCE, InfluenceCommandOptions
from carv_distill.distillation.task import DMD
from carv_distill.engine.options import RunConfig
from carv_distill.errors import UserError
from carv_distill.tasks import load_config
from tests.helpers.captioned_files import photos, rows
from tests.helpers.image_files import as_folder
from tests.helpers.runs import as_run
from tests.helpers.tiny_latent import save_tiny_pipeline

SAMPLER = ["--strategy", "iid", "--proposal", "uniform", "--noise", "iid"]
FEW = ["--draws", "2", "--groups", "2", "--queries", "data:0", "--device", "cpu", *SAMPLER]


def student(*words: str) -> RunConfig:
    return load_config("text_to_image/dmd_shapes", words)


def command_in(message: str) -> list[str]:
    """The words of the command that a message ends with."""
    words = shlex.split(message.partition("python evaluate.py ")[2])
    assert words[0] == "influence"
    return words


def test_a_run_that_cannot_be_ranked_is_passed_over_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    names = ("teacher_digits", "dmd_carv", "text_to_image/dmd_shapes")
    runs = [as_run(load_config(name, [f"folder={tmp_path}"])) for name in names]
    for number, run in enumerate(runs):
        os.utime(run / "environment.json", (number, number))
    assert INFLUENCE.newest(InfluenceCommandOptions(runs=tmp_path)) == runs[1]
    (said,) = caplog.messages
    assert said.startswith(f"{runs[2]} is newer than {runs[1]} and passed over: samples of a text-to-image")
    tracin = InfluenceCommandOptions(runs=tmp_path, score="tracin", checkpoints=(1,))
    assert INFLUENCE.newest(tracin) == runs[0]
    with pytest.raises(UserError, match=r"--checkpoints: they are read of runs of task teacher, this"):
        INFLUENCE.open(runs[1], tracin)


def test_a_text_to_image_students_run_leads_to_its_teacher(tmp_path: Path) -> None:
    """The shipped teacher with what it learned from; a run's with that run; else with captioned files."""
    shipped = as_run(student(f"folder={tmp_path}", "name=a"))
    with pytest.raises(UserError, match=r"not ranked, but those of its teacher are") as caught:
        INFLUENCE.open(shipped, InfluenceCommandOptions())
    words = command_in(str(caught.value))[1:]
    assert (words[0], words[2:]) == ("--teacher", ["--data", "shapes"])
    assert Path(words[1]).samefile("checkpoints/shapes-teacher")
    teacher = as_run(load_config("teacher_shapes", [f"folder={tmp_path}"]))
    said = INFLUENCE.refusal(DMD, student(f"teacher.path={teacher}/teacher"), InfluenceCommandOptions())
    assert command_in(said) == ["influence", "--run", str(teacher)]
    prompts = ["data.name=captioned", "data.size=32", "data.views=66", "prompts.path=p.txt", "fid.every=0"]
    said = INFLUENCE.refusal(DMD, student(*prompts), InfluenceCommandOptions())
    assert said.endswith("--data FOLDER")


def test_the_command_for_captioned_files_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny_pipeline(tmp_path / "a teacher")
    data = as_folder(tmp_path / "data", {**photos(), "metadata.jsonl": rows()})
    captioned = ["data.name=captioned", "data.size=8", "data.views=66", f"data.path={data}"]
    run = as_run(student("folder=runs", f"teacher.path={tmp_path}/a teacher", *captioned))
    assert main(["influence", "--run", str(run)]) == 2
    command = command_in(capsys.readouterr().err)
    assert main([*command, *FEW, "--cache", "cache"]) == 0
    (result,) = (tmp_path / "runs").glob("influence-*/influence.json")
    assert result.parent.name.endswith("-a-teacher-of-set")
