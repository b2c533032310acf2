"""Options from dataclasses, and what goes wrong in one line."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch

from carv_distill.command_line import add_options, missing, options_of, run_command
from carv_distill.commands.command import Command
from carv_distill.commands.evaluate import COMMANDS, main
from carv_distill.errors import UserError
from carv_distill.options import between, more_than
from tests.helpers.small import ROOT


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda c: c.name)
def test_what_a_command_line_leaves_out_is_the_default(command: Command) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, command.options)
    needed = [spec.name for spec in fields(command.options) if spec.default is MISSING]
    values: dict[str, Any] = {"data": "digits", "influence": Path("i.json"), "models": Path("m.jsonl")}
    required = {name: values[name] for name in needed}
    words = [word for name, value in required.items() for word in (f"--{name}", str(value))]
    assert options_of(command.options, parser.parse_args(words)) == command.options(**required)


def test_text_arrives_as_typed() -> None:
    parser = argparse.ArgumentParser()
    options = COMMANDS["influence"].options
    add_options(parser, options)
    words = ["--queries", "null", "--out", "007.json", "--teacher", "1e3", "--data", "digits", "--no-debias"]
    parsed = options_of(options, parser.parse_args([*words, "--parameters", "a", "b*"]))
    values = vars(parsed)
    assert [values[k] for k in ("queries", "teacher", "debias")] == ["null", "1e3", False]
    assert (str(parsed.out), values["parameters"]) == ("007.json", ("a", "b*"))


def test_an_option_of_several_values_takes_all_it_is_given() -> None:
    """However often: none is dropped without a word, and a default is not among them."""
    parser = argparse.ArgumentParser()
    add_options(parser, COMMANDS["clip"].options)
    words = ["--run", "a", "--views", "3", "--run", "b", "c"]
    parsed = options_of(COMMANDS["clip"].options, parser.parse_args(words))
    assert vars(parsed)["run"] == (Path("a"), Path("b"), Path("c"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fid", "--images", "3"], "argument --images: '3' is not a whole number from 4 on"),
        (["--ranges", "0"], "argument --ranges: '0' is not a whole number from 1 on"),
        (["fid", "--labels", "none"], "argument --labels: invalid choice: 'none'"),
        (["variance", "--draws", "4", "0"], "argument --draws: '0' is not a whole number from 1 on"),
        (["influence", "--damping", "nan"], "argument --damping: 'nan' is not a number from 0 on"),
        (["influence", "--motion-floor", "0"], "argument --motion-floor: '0' is not a number above 0\n"),
        (["influence", "--motion-floor", "inf"], "argument --motion-floor: 'inf' is not a number above 0\n"),
        (["export", "--memory", "-1"], "argument --memory: '-1' is not a number "),
        (["reference"], "the following arguments are required: --data"),
        (
            ["influence", "--query", "data:3"],
            "--query: no option of evaluate.py influence (did you mean --queries?); eval",
        ),
        (["--pairs", "4"], "--pairs: no option of evaluate.py fid; of variance"),
        (["influence", "--draws", "5"], "--draws: 5 is no multiple of --groups, 8"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: object = main(words)
    except SystemExit as end:
        status = end.code
    shown = capsys.readouterr()
    assert (status, shown.out, len(shown.err.splitlines())) == (2, "", 1)
    assert shown.err.startswith(f"error: {said}")


def test_numbers_have_both_their_limits() -> None:
    """Those of a dataclass's field, whether its least is allowed or not."""

    @dataclass
    class Limits:
        share: float = between(-1, 1, 0.0)
        """a share"""
        rate: float = more_than(0, 0.5, high=2)
        """a rate"""

    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser, Limits)
    assert options_of(Limits, parser.parse_args(["--share=-1", "--rate=2"])) == Limits(-1, 2)
    for word, said in (
        ("--share=1.5", "from -1 to 1"),
        ("--share=-1.5", "from -1 to 1"),
        ("--rate=0", "above 0, up to 2"),
        ("--rate=2.5", "above 0, up to 2"),
        ("--rate=nan", "above 0, up to 2"),
    ):
        with pytest.raises(argparse.ArgumentError, match=f"is not a number {said}$"):
            parser.parse_args([word])


def test_help_and_mistakes_do_not_wait_for_torch() -> None:
    words = (
        "import sys, carv_distill.cli, carv_distill.commands.evaluate, carv_distill.commands.train;"
        "sys.exit(bool({'torch', 'lightning', 'diffusers', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", words], cwd=ROOT, timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("name", "extra"),
    [("pyarrow.parquet", "carv-distill[attribution]"), ("trimesh", "carv-distill[text-to-3d]"),
     ("peft.tuners", "carv-distill[text-to-image]"), ("sentencepiece", "carv-distill[text-to-image]"),
     ("scipy", "carv-distill")],
)  # fmt: skip
def test_what_is_not_installed_is_named_with_its_extra(
    name: str, extra: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise ModuleNotFoundError("none", name=name)

    assert run_command(work) == 2
    assert f"pip install '{extra}'" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):
        missing(ModuleNotFoundError("ours", name="carv_distill.nothing"))


def test_how_work_ends_is_its_status(capsys: pytest.CaptureFixture[str]) -> None:
    def ends(error: BaseException) -> int:
        def work() -> None:
            raise error

        return run_command(work, "interrupted; the store stays")

    assert ends(UserError("no such run")) == 2
    assert ends(OSError(28, "No space left on device", "scores.npz")) == 2
    assert ends(KeyboardInterrupt()) == 130
    assert ends(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")) == 2
    assert ends(MemoryError("Unable to allocate 1 TiB")) == 2
    with pytest.raises(RuntimeError, match="a fault of ours"):
        ends(RuntimeError("a fault of ours"))
    said = [
        "error: no such run",
        "error: scores.npz: No space left on device",
        "interrupted; the store stays",
        "error: out of memory (CUDA out of memory. Tried to allocate 2 GiB); smaller batches take less",
        "error: out of memory (Unable to allocate 1 TiB); smaller batches take less",
    ]
    assert capsys.readouterr().err.splitlines() == said
