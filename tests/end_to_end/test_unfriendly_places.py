"""Screens and disks that do not take a result, and run folders that are not as they were written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from carv_distill.commands.command import measure
from carv_distill.commands.export import EXPORT, ExportOptions
from carv_distill.engine.metrics import read_metrics
from carv_distill.errors import UserError
from carv_distill.tasks import load_config, open_run, train
from tests.helpers import forked
from tests.helpers.launch import ONE_THREAD, finish, start
from tests.helpers.runs import assert_same_run
from tests.helpers.small import ROOT, SMALL

FID = "evaluate.py fid --images 16 --ranges 1 --no-teacher --device cpu --run"
TRAIN = (sys.executable, "train.py", "--config", "configs/dmd_carv.yaml", *SMALL)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four updates; to be copied, not changed."""
    words = (*SMALL, "trainer.max_steps=4", f"folder={tmp_path_factory.mktemp('runs')}")
    return train(load_config(ROOT / "configs/dmd_carv.yaml", words))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / finished.name, symlinks=True))


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """By bash, in the root of the repository, on one thread."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        env={**ONE_THREAD, **environment},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=200,
    )


def train_again(run: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return forked.run(*TRAIN[1:], f"folder={run.parent}", f"name={run.name}", *words)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["| true", "> /dev/full 2>&1", "> /dev/full", "2>&- >&-"])
def test_a_measurement_is_kept_whatever_becomes_of_the_screen(end: str, run: Path) -> None:
    done = shell(f"{sys.executable} {FID} {run} {end}")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((run / "fid.json").read_text())["student, 1 step"]["images"] == 16


@pytest.mark.slow
def test_a_screen_of_ascii_shows_what_it_can(run: Path) -> None:
    done = shell(f"{sys.executable} {FID} {run}", PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "student," in done.stdout
    assert (run / "fid.json").is_file()


def test_a_destination_is_looked_at_before_the_work(run: Path, tmp_path: Path) -> None:
    """A folder or a device is refused before torch is loaded; a folder that is not there is made."""
    os.mkfifo(tmp_path / "pipe")
    for place, why in (
        (tmp_path, "is a folder"),
        ("/dev/null", "is a device"),
        (tmp_path / "pipe", "is a device"),
    ):
        done = forked.run(*FID.split(), str(run), "--out", str(place))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: --out: "), done.stderr
        assert why in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert Path("/dev/null").is_char_device()
    for command in (FID, "evaluate.py influence --run", "evaluate.py variance --run"):
        done = forked.run(*command.split(), str(run), "--out", f"{tmp_path}/plain")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: --out: {tmp_path}/plain must end in .json, as {tmp_path}/plain.json\n"
    (tmp_path / "folder.npz").mkdir()
    done = forked.run("evaluate.py", "reference", "--data", "digits", "--out", f"{tmp_path}/folder.npz")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "folder.npz is a folder" in done.stderr
    done = forked.run(*FID.split(), str(run), "--out", f"{tmp_path}/new/deep/fid.json")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new/deep/fid.json").is_file()


@pytest.mark.parametrize("name", ["environment.json", "config.yaml"])
@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]", b"\0" * 100])
def test_a_damaged_file_is_found_before_the_work(name: str, damage: bytes, run: Path) -> None:
    (run / name).write_bytes(damage)
    for command in (f"{FID} {run}", f"train.py --config {run}/config.yaml --resume folder={run.parent}"):
        done = forked.run(*command.split())
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
        assert name in done.stderr


def test_a_damaged_neighbour_is_named(run: Path) -> None:
    bad = run.parent / "bad"
    bad.mkdir()
    shutil.copy(run / "environment.json", bad)
    (bad / "config.yaml").write_text("task: dmd\nname: bad\n")
    done = forked.run("evaluate.py", "fid", "--runs", str(run.parent))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"{bad}/config.yaml" in done.stderr
    assert "teacher.path" in done.stderr


@pytest.mark.parametrize(
    "content",
    [b"step;seconds\n1;2\n", b"step,x\n1,one\n", b"\xff\n", b"step\n1.5\n", b"x\n1\n", b'step\n"1\n\n'],
)
def test_metrics_that_are_not_as_they_were_written_are_one_line(content: bytes, run: Path) -> None:
    """As a spreadsheet saves them, say; nothing is changed."""
    (run / "metrics.csv").write_bytes(content)
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file() and p.name != "run.lock"}
    words = (*SMALL, f"folder={run.parent}", f"name={run.name}", "trainer.max_steps=6")
    with pytest.raises(UserError, match=f"{run}/metrics.csv is not as it was written"):
        train(load_config(ROOT / "configs/dmd_carv.yaml", words), resume=True)
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file() and p.name != "run.lock"} == before


@pytest.mark.slow
def test_metrics_that_are_gone_are_said_and_the_run_goes_on(run: Path) -> None:
    (run / "metrics.csv").unlink()
    done = train_again(run, "trainer.max_steps=6", "--resume")
    assert done.returncode == 0, done.stderr
    assert "metrics.csv has no rows of updates 1 to 4 any more" in done.stderr
    assert [row["step"] for row in read_metrics(run / "metrics.csv")] == [5, 6]


@pytest.mark.slow
def test_two_processes_do_not_go_on_with_one_run(run: Path) -> None:
    words = (*TRAIN, f"folder={run.parent}", f"name={run.name}", "trainer.max_steps=40", "--resume")
    ends = finish([start(words), start(words)])
    assert sorted(status for status, _ in ends) == [0, 2], ends
    refused = next(output for status, output in ends if status == 2)
    assert "is in use: another process trains or exports it" in refused
    assert [row["step"] for row in read_metrics(run / "metrics.csv")] == list(range(1, 41))


@pytest.mark.slow
def test_two_runs_of_one_name_have_two_folders(tmp_path: Path) -> None:
    words = (*TRAIN, f"folder={tmp_path}", "name=twin", "trainer.max_steps=2")
    assert [status for status, _ in finish([start(words), start(words)])] == [0, 0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["twin", "twin-2"]


@pytest.mark.slow
def test_a_run_without_its_product_makes_it_when_it_goes_on(finished: Path, run: Path) -> None:
    """As where it died between its last checkpoint and its export; and by `evaluate.py export`."""
    whole = shutil.copytree(finished, run.parent / "whole", symlinks=True)
    for again in ("resume", "export"):
        shutil.rmtree(run / "student")
        (run / "summary.json").unlink()
        if again == "resume":
            done = train_again(run, "trainer.max_steps=4", "--resume")
        else:
            done = forked.run("evaluate.py", "export", "--run", str(run), "--device", "cpu")
        assert done.returncode == 0, done.stderr
        for file in sorted((whole / "student").rglob("*")):
            assert (
                file.is_dir()
                or (run / "student" / file.relative_to(whole / "student")).read_bytes() == file.read_bytes()
            )
    assert_same_run(Path(whole), run, 4)


@pytest.mark.slow
def test_an_older_student_is_said_to_be_one(run: Path) -> None:
    """A run that was told to stop after its last export."""
    path = run / "checkpoints"
    done = train_again(run, "trainer.max_steps=5", "checkpoint.every=50", "--resume")
    assert done.returncode == 0, done.stderr
    summary = json.loads((run / "summary.json").read_text())
    assert summary["product_step"] == 5
    (run / "summary.json").write_text(json.dumps({**summary, "product_step": 4}))
    done = forked.run(*FID.split(), str(run))
    assert "is of update 4, the run's newest checkpoint of update 5" in done.stderr
    assert (path / "newest-step=5.ckpt").is_file()


@pytest.mark.slow
def test_a_checkpoint_of_another_run_is_refused(run: Path) -> None:
    path = run / "checkpoints/newest-step=4.ckpt"
    content = torch.load(path, weights_only=True)
    for state in content["callbacks"].values():
        if "values" in state:
            state["values"]["seed"] = 7
    torch.save(content, path)
    done = train_again(run, "trainer.max_steps=6", "--resume")
    assert done.returncode == 2
    assert "newest-step=4.ckpt is no checkpoint of this run: seed is 7 there, 0 here" in done.stderr


def test_a_checkpoint_of_another_run_is_neither_exported_nor_measured(run: Path) -> None:
    """Of other values; and of other networks, whose values are the same."""
    path = run / "checkpoints/newest-step=4.ckpt"
    whole = torch.load(path, weights_only=True)
    student = (run / "student/unet/diffusion_pytorch_model.safetensors").read_bytes()
    task, config = open_run(run)
    assert task.gradient is not None
    for change, why in (
        ("values", "seed is 7 there, 0 here"),
        ("network", "checkpoint's networks differ"),
    ):
        content = {**whole, "state_dict": dict(whole["state_dict"])}
        if change == "values":
            for state in content["callbacks"].values():
                if "values" in state:
                    state["values"] = {**state["values"], "seed": 7}
        else:
            content["state_dict"].pop(next(iter(content["state_dict"])))
            content["callbacks"] = {}
        torch.save(content, path)
        for work in (
            lambda: measure(EXPORT, ExportOptions(run=run, device="cpu")),
            lambda: task.gradient(config, run, "cpu", None),
        ):
            with pytest.raises(UserError, match=why):
                work()
    assert (run / "student/unet/diffusion_pytorch_model.safetensors").read_bytes() == student


@pytest.mark.slow
def test_a_second_interruption_leaves_at_once(tmp_path: Path) -> None:
    """While FID of many images is measured, which the first one waits for."""
    words = (*TRAIN, f"folder={tmp_path}", "name=slow", "fid.every=1000", "fid.images=100000")
    process = start(words)
    run = tmp_path / "slow"
    deadline = time.monotonic() + 100
    while not (run / "environment.json").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(3)
    for _ in range(2):
        process.send_signal(2)
        time.sleep(0.5)
    ((status, output),) = finish([process], 30)
    assert status == 130, output
    assert "a second Ctrl-C leaves at once" in output
    assert "stopped: interrupted after update 0; nothing is kept" in output
    assert "Traceback" not in output


def test_a_name_that_this_locale_cannot_write_is_one_line(tmp_path: Path) -> None:
    locale = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = shell(f"{' '.join(TRAIN)} folder={tmp_path}/runs name=größe", **locale)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "name: " in done.stderr
    assert "UTF-8" in done.stderr
