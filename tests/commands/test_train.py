"""What a finished run says."""

from __future__ import annotations

from pathlib import Path

import pytest

from carv_distill.commands.train import closing
from carv_distill.files import write_json
from carv_distill.tasks import TASKS, load_config


@pytest.mark.parametrize(
    ("task", "last", "said"),
    [
        (
            "dmd",
            {"step": 4, "fid/fid": 0.4911, "fid/recall": 0.79},
            ["done in 75 s: {run} · FID 0.49 of 1,797 images · recall 0.79", "student: {run}/student"],
        ),
        ("sds", {"clip/score": 91.46}, ["done in 75 s: {run} · CLIP score 91.5", "object: {run}/object"]),
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
    command = {"dmd": "fid", "sds": "clip"}.get(task)
    assert lines[3:] == ([f"next: python evaluate.py {command} --run {tmp_path}"] if command else [])
    (tmp_path / "report.html").touch()
    again = closing(TASKS[task], config, tmp_path, 75.2).splitlines()
    assert again == [*lines[:2], f"report: {tmp_path}/report.html", *lines[2:]]
