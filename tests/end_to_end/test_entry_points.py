"""The commands of the README, as a shell runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from carv_distill.distillation.options import DMDConfig
from carv_distill.tasks import train
from tests.helpers.forked import run
from tests.helpers.small import ROOT


def python(*words: str) -> subprocess.CompletedProcess[str]:
    """In an interpreter of its own."""
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=250)


def test_a_mistake_is_one_line_and_exit_status_2(tmp_path: Path) -> None:
    done = python(
        "train.py", "--config", "configs/dmd_carv.yaml", f"folder={tmp_path}/runs", "estimator.drws=4"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: unknown key estimator.drws (did you mean estimator.draws?)")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_evaluate_without_a_run_is_one_line_and_exit_status_2(tmp_path: Path) -> None:
    done = run("evaluate.py", "--runs", str(tmp_path))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "holds no run of task dmd" in done.stderr


@pytest.mark.slow
def test_evaluate_measures_the_newest_run(tmp_path: Path, small_config: Callable[..., DMDConfig]) -> None:
    """FID of student and teacher, then the variance: tables on the screen, JSON in the run."""
    trained = train(small_config("trainer.max_steps=4"))
    runs = str(trained.parent)
    done = run("evaluate.py", "--runs", runs, "--images", "64", "--ranges", "2")
    assert done.returncode == 0, done.stderr
    assert "student" in done.stdout
    assert "teacher" in done.stdout
    result = json.loads((trained / "fid.json").read_text())
    student, teacher = result["student, 1 step"], result["teacher, Heun 18"]
    assert student["seed_ranges"] == teacher["seed_ranges"] == [[0, 63], [64, 127]]
    assert teacher["summary"]["fid"]["mean"] < student["summary"]["fid"]["mean"]

    out = tmp_path / "variance.json"
    words: tuple[str, ...] = (
        "--run",
        str(trained),
        "--upstream",
        "2",
        "--draws",
        "1",
        "4",
        "--pairs",
        "4",
        "--samples",
        "4",
    )
    done = run("evaluate.py", "variance", *words, "--out", str(out))
    assert done.returncode == 0, done.stderr
    places = [done.stdout.index(words) for words in ("upstream fixed", "Use R = ", "Short names")]
    assert places == sorted(places)  # a short table, what to do, what the names mean
    assert len(done.stdout.splitlines()) <= 50
    assert f"all tables: {out.with_suffix('.txt')}" in done.stdout
    report = out.with_suffix(".txt").read_text()
    assert all(title in report for title in ("Use R = ", "Variance budget", "What it is worth", "Advice"))
    assert "at update 4" in " ".join(done.stdout.split())  # a long path wraps the line
    found = json.loads(out.read_text())
    assert [r["sampler"] for r in found["rows"][::2]] == ["uniform", "IW", "Strat", "IW+Strat", "best"]
    one, four = found["rows"][:2]
    assert one["within"]["value"] > four["within"]["value"]
    assert one["ecm"]["value"] == 1
    cost = found["cost"]
    sample = cost["upstream"] + cost["backward"] + 2 * cost["draw"]
    spent = cost["other"] + cost["calls"] + 4 * sample  # the run's own (4, 2)
    assert all(a["cost"] <= spent * (1 + 1e-9) for a in found["advice"].values())
    for name in ("variance_vs_compute", "ecm", "noise_levels"):
        assert (out.with_suffix("") / f"{name}.png").is_file()
        assert not (trained / f"figures/{name}.png").exists()
    assert found["trained"]["config"]["name"] == trained.name


def test_what_cannot_be_measured_is_one_line_and_exit_status_2(tmp_path: Path) -> None:
    done = run("evaluate.py", "varianse")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith("error: varianse: no command (did you mean variance?); there are fid, ")
    done = run("evaluate.py", "clip", "--run", str(tmp_path / "none"))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "none is not a run's folder" in done.stderr
    (tmp_path / "config.yaml").write_text("task: dmd\nname: x\n")
    done = run("evaluate.py", "clip", "--run", str(tmp_path), str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "--out: several runs need a file of their own" in done.stderr
    for words, said in (
        (("--pairs", "1"), "--pairs: '1' is not a whole number from 3 on"),
        (("--samples", "1"), "--samples: '1' is not"),
        (("--draws", "4", "0"), "--draws: '0' is not"),
        (("--pair", "4"), "--pair: no option of evaluate.py variance"),
        (("--upstream", "0"), "--upstream: '0' is not"),
    ):
        done = run("evaluate.py", "variance", "--run", str(tmp_path), *words)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
        assert said in done.stderr
