"""evaluate.py influence, by one process and by two."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.attributed import tiny_teacher
from tests.helpers.forked import run
from tests.helpers.launch import finish, tasks_of_torchrun


def evaluate(*words: str) -> subprocess.CompletedProcess[str]:
    return run("evaluate.py", "influence", *words)


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_make_the_matrix_of_one(tmp_path: Path) -> None:
    """From a shell: tables, pictures, JSON and scores; then the same by torchrun, equal to the bit."""
    words = (
        f"--teacher {tiny_teacher(tmp_path).path} --data digits --queries data:3,14 --draws 4 --groups 2 "
        "--parameters *conv_in* --size 32 --chunk 64 --noise iid --proposal uniform"
    ).split()
    done = evaluate(*words, "--out", str(tmp_path / "one.json"))
    assert done.returncode == 0, done.stderr
    assert "Most influential of the 1,797 training samples" in done.stdout
    assert "needs" not in done.stderr
    two = finish(tasks_of_torchrun("evaluate.py", "influence", *words, "--out", str(tmp_path / "two.json")))
    assert [status for status, _ in two] == [0, 0], two
    assert "".join(output for _, output in two).count("Most influential") == 1
    blocks = sorted((tmp_path / "one/store").glob("block-*.npy"))
    assert len(blocks) == -(-1797 // 64)
    for block in blocks:
        assert block.read_bytes() == (tmp_path / "two/store" / block.name).read_bytes()
    with np.load(tmp_path / "one/cosine.npz") as one, np.load(tmp_path / "two/cosine.npz") as other:
        assert np.array_equal(one["scores"], other["scores"], equal_nan=True)
    result = json.loads((tmp_path / "two.json").read_text())
    assert result["about"]["features"][0]["sampler"] == {"strategy": "stratified", "noise": "iid"}


@pytest.mark.slow
def test_a_mistake_is_one_line_and_exit_status_2(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "x.json")]
    for words, said in (
        (["--teacher", "checkpoints/digits-teacher", *out], "--teacher and --data go together"),
        (["--teacher", "checkpoints/digits-teacher", "--data", "digits", "--parameters", "x", *out],
         "--parameters: 'x' matches none"),
        (["--run", str(tmp_path), "--teacher", "t", "--data", "digits", *out], "is not a run's folder"),
        (["--damping", "-1", *out], "--damping: '-1' is not a number from 0 on"),
    ):  # fmt: skip
        done = evaluate(*words)
        *_, last = done.stderr.splitlines()  # after what says that torch is loaded
        assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (2, "", False)
        assert last.startswith("error: ")
        assert said in done.stderr
    assert not (tmp_path / "x.json").exists()


@pytest.mark.slow
def test_a_teacher_s_results_have_a_folder_of_their_own(tmp_path: Path) -> None:
    """By its name, under --runs; no run is taken for it."""
    teacher = tiny_teacher(tmp_path).path
    words = (
        f"--teacher {teacher} --data digits --queries data:3 --among 8 --draws 2 --groups 2 --size 32 "
        f"--parameters *conv_in* --noise iid --proposal uniform --device cpu --runs {tmp_path / 'runs'}"
    ).split()
    done = evaluate(*words)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("influence-")
    assert folder.name.endswith("-teacher-0-of-digits")
    assert (folder / "influence.json").is_file()
    assert (folder / "influence/cosine.png").is_file()
    *_, written, figure, page, last = done.stdout.splitlines()
    assert written.startswith("written to ")
    assert figure == f"drawn: {folder / 'influence/cosine.png'}"  # the numbers lie on disk by then
    assert page == f"a page to open: {folder / 'report.html'}"
    assert last.startswith("Whether the ranking agrees")  # two groups, and debiased scores
    done = run("evaluate.py", "fid", "--runs", str(tmp_path / "runs"))
    assert done.returncode == 2
    assert "holds no run" in done.stderr or "no run" in done.stderr
