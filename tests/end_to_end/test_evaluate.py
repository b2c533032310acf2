"""evaluate.py fid and reference, by one process and by two."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.metrics import read_metrics
from carv_distill.tasks import load_config, train
from tests.helpers.forked import run
from tests.helpers.image_files import save_zip
from tests.helpers.launch import finish, launch_two, tasks_of_torchrun
from tests.helpers.small import SMALL


def evaluate(*words: str) -> subprocess.CompletedProcess[str]:
    return run("evaluate.py", *words, "--device", "cpu")


def said_by(*words: str, two: bool) -> str:
    """What one process says, or two together."""
    if two:
        ends = finish(tasks_of_torchrun("evaluate.py", *words, "--device", "cpu"))
        assert [status for status, _ in ends] == [0, 0], ends
        return "".join(output for _, output in ends)
    done = evaluate(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.ddp
def test_two_processes_measure_what_one_does(tmp_path: Path, small_config: Callable[..., DMDConfig]) -> None:
    """600 images a range are three batches: one rank makes two of them, the other the short one."""
    trained = train(small_config("trainer.max_steps=2"))
    words = ("fid", "--run", str(trained), "--images", "600", "--ranges", "2", "--no-teacher", "--out")
    found = []
    for two in (False, True):
        out = tmp_path / f"{two}.json"
        assert said_by(*words, str(out), two=two).count("written to") == 1
        found.append(json.loads(out.read_text())["student, 1 step"]["ranges"])
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=1e-9)
        assert one["recall"] is not None


@pytest.mark.ddp
@pytest.mark.slow
def test_the_trace_of_two_processes_is_that_of_one(
    tmp_path: Path, small_config: Callable[..., DMDConfig]
) -> None:
    """Before the first update the students are equal; 300 images are two batches."""
    words = ("fid.every=1", "fid.images=300", "trainer.max_steps=1", "fid.labels=random")
    alone = train(small_config(*words))
    launch_two("--config", "configs/dmd_carv.yaml", *SMALL, *words, f"folder={tmp_path}/two")
    one, other = (read_metrics(one / "metrics.csv")[0] for one in (alone, tmp_path / "two/dmd_carv"))
    assert one["step"] == 0
    for name in ("fid/fid", "fid/precision", "fid/recall"):
        assert one[name] == pytest.approx(other[name], rel=1e-9)


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_make_the_reference_of_one(tmp_path: Path) -> None:
    save_zip(tmp_path / "set.zip", 8, [i % 3 for i in range(300)])
    path = f"{tmp_path}/set.zip"
    words = ("reference", "--data", "images", "--path", path, "--features", "clip", "--workers", "1", "--out")
    files = []
    for two in (False, True):
        out = tmp_path / f"{two}.npz"
        said_by(*words, str(out), two=two)
        assert json.loads(out.with_suffix(".json").read_text())["images"] == 300
        with np.load(out) as file:
            files.append({key: file[key] for key in file.files})
    assert files[0]["size"] == 8
    for key in ("mu", "sigma"):
        np.testing.assert_allclose(files[0][key], files[1][key], rtol=0, atol=1e-9)


@pytest.mark.slow
def test_a_reference_fits_its_data_and_is_refused_by_others(
    tmp_path: Path, small_config: Callable[..., DMDConfig]
) -> None:
    """The digits' own statistics give the FID of the digits themselves."""
    out = tmp_path / "digits.npz"
    done = evaluate("reference", "--data", "digits", "--features", "digits", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "statistics of 1,797 images" in done.stdout
    words = ("fid.every=1", "fid.images=64", "trainer.max_steps=1")
    own = read_metrics(train(small_config(*words)) / "metrics.csv")[0]
    config = small_config(*words, f"fid.reference={out}", "name=file")
    kept = read_metrics(train(config) / "metrics.csv")[0]
    assert own["fid/fid"] == pytest.approx(kept["fid/fid"], rel=1e-6)
    assert "fid/recall" not in kept

    for words_, said in (
        (("--data", "digits", "--features", "digits", "--out", f"{tmp_path}/x.json"), "must end in .npz"),
        (("--data", "digits", "--features", "digits"), "--out: without a run results need a place"),
        (("--data", "cifar10", "--out", f"{tmp_path}/x.npz"), "data.path: data.name: cifar10 needs"),
    ):
        done = evaluate("reference", *words_)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
        assert said in done.stderr


def test_fid_takes_a_teachers_run(tmp_path: Path) -> None:
    """Its own samples by Heun's steps, against the digits."""
    words = ["training.channels=[8]", "training.head_channels=8", "training.batch=4", "fid.every=0"]
    where = [f"folder={tmp_path}", "trainer.max_steps=1", "trainer.accelerator=cpu"]
    trained = train(load_config("teacher_digits", [*words, *where]))
    done = evaluate("fid", "--run", str(trained), "--images", "16", "--ranges", "1")
    assert done.returncode == 0, done.stderr
    result = json.loads((trained / "fid.json").read_text())
    assert result["teacher, Heun 18"]["images"] == 16
    assert "student, 1 step" not in result
