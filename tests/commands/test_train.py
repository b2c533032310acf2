"""What a finished run says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from carv_distill.commands.train import closing, main, show
from carv_distill.files import write_json
from carv_distill.tasks import TASKS, load_config

ENDS = ("", "_low", "_high")


@pytest.mark.parametrize(
    ("task", "last", "said"),
    [
        (
            "dmd",
            {"step": 4, "fid/fid": 0.4911, "fid/recall": 0.79, "fid/copied": 0.061},
            [
                "done in 75 s: {run} · FID 0.49 of 1,797 images · recall 0.79 · copied 0.06 (chance: 0.05)",
                "student: {run}/student",
            ],
        ),
        ("sds", {"clip/score": 91.46}, ["done in 75 s: {run} · CLIP score 91.5", "object: {run}/object"]),
        (
            "sds",
            {"clip/score": 91.46, "clip/score_low": 90.96, "clip/score_high": 92.04},
            ["done in 75 s: {run} · CLIP score 91.5 [91.0, 92.0]", "object: {run}/object"],
        ),
        (
            "dmd",
            {f"variance/{arm}/total{end}": v for arm, v in (("carv", 0.5), ("iid", 2.0)) for end in ENDS},
            [
                "done in 75 s: {run} · variance 0.5 [0.5, 0.5] · with one iid draw a sample 2 [2, 2]",
                "student: {run}/student",
            ],
        ),
        ("text_teacher", {"loss/vae": None}, ["done in 75 s: {run}", "teacher: {run}/teacher"]),
    ],
)
def test_a_run_ends_with_figures_paths_and_what_is_next(
    task: str, last: dict[str, float], said: list[str], tmp_path: Path
) -> None:
    write_json(tmp_path / "summary.json", {"last": last})
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/a.png").touch()
    (tmp_path / "samples").mkdir()
    for step in (0, 4):
        (tmp_path / f"samples/{step:06d}.png").touch()
    config = load_config(TASKS[task].example.removesuffix(".yaml"), [])
    lines = closing(TASKS[task], config, tmp_path, 75.2).splitlines()
    assert lines[:2] == [line.format(run=tmp_path) for line in said]
    assert lines[2] == f"drawn: {tmp_path}/figures/a.png, {tmp_path}/samples/000004.png"
    commands = {
        "dmd": ("evaluate.py fid", "evaluate.py variance", "evaluate.py influence"),
        "sds": ("-m carv_distill view", "evaluate.py clip", "evaluate.py variance"),
        "text_teacher": ("evaluate.py influence",),
    }
    made = TASKS["text_teacher"].further(config, tmp_path).values() if task == "text_teacher" else []
    expected = [*made, *(f"python {command} --run {tmp_path}" for command in commands[task])]
    assert len(lines) == 3 + len(expected)
    for line, start in zip(lines[3:], expected, strict=True):
        assert line.startswith(f"next: {start}")
    (tmp_path / "report.html").touch()
    again = closing(TASKS[task], config, tmp_path, 75.2).splitlines()
    assert again == [*lines[:2], f"report: {tmp_path}/report.html", *lines[2:]]


def test_on_a_terminal_it_stands_between_two_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole, whatever the width, and with no sign that would be markup elsewhere."""
    text = f"done in 75 s: runs/[bold]a · recall 0.79\nnext: python evaluate.py fid --run {'long/' * 30}run"
    show(text)
    assert capsys.readouterr().out == f"{text}\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    show(text)
    first, *inner, last = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
    assert set(first.strip()) == set(last.strip()) == {"─"}
    assert "".join(line.strip() for line in inner).replace(" ", "") == text.replace("\n", "").replace(" ", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "a configuration is missing; name one, as --config configs/dmd_carv.yaml"),
        (
            ["configs/sds_carv.yaml"],
            "a configuration is missing; name one, as --config configs/sds_carv.yaml",
        ),
        (["--config", "a", "--draws", "4"], "--draws: no option of training; values are words, as "),
        (["--config", "a", "--estimator.draws=4"], "--estimator.draws=4: values are given without dashes"),
    ],
)
def test_words_that_do_not_fit_say_what_is_meant(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert capsys.readouterr().err.startswith(f"error: {said}")
