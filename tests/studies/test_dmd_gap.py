"""The variance-versus-FID study: its statistics on made-up runs, and a real, tiny one."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from carv_distill.errors import UserError
from studies import dmd_gap, jobs
from studies.dmd_gap import arms, log_ratio, summarise, traces, verdict
from studies.dmd_gap_figures import draw_gap
from studies.dmd_gap_pilot import Plan, equal_upstream
from studies.jobs import Job, run_jobs, seconds_per_update

PLAN = Plan(upstream=40, noise="antithetic", base=0.2, reuse=0.3, more=0.3)
SEEDS = [0, 1, 2]


def make_runs(folder: Path, updates: int, every: int) -> list[dmd_gap.GapArm]:
    """Metrics of runs in which (8,16) iid has a quarter of the variance and the same FID, by construction."""
    compared = arms(updates, PLAN, every)
    for i, arm in enumerate(compared):
        for seed in SEEDS:
            run = folder / arm.job(seed).name
            run.mkdir(parents=True)
            rows = []
            for step in range(10, arm.updates + 1, 10):
                row: dict[str, float] = {"step": step, "seconds": step * (1 + i)}
                if step % every == 0:
                    row["fid/fid"] = 2 + 100 / step + 0.01 * seed
                if step % (2 * every) == 0:
                    for part in ("total", "within", "between", "squared_norm"):
                        row[f"variance/carv/{part}"] = (100 + step) / (4 if i == 1 else 1)
                rows.append(row)
            with (run / "metrics.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(dict.fromkeys(k for r in rows for k in r)))
                writer.writeheader()
                writer.writerows(rows)
            report = {"student, 1 step": {"summary": {"fid": {"mean": 2.0}}}}
            (run / "fid.json").write_text(json.dumps(report))
    return compared


def test_ratios_and_differences_are_those_of_the_runs(tmp_path: Path) -> None:
    compared = make_runs(tmp_path, 300, 50)
    assert [a.name for a in compared] == [
        "(8,1) iid",
        "(8,16) iid",
        "(8,16) stratified",
        "(8,16) best",
        "(40,1) iid",
    ]
    assert [a.updates for a in compared] == [450, 300, 300, 300, 300]
    assert "estimator.noise=antithetic" in compared[3].words
    rows = summarise(compared, SEEDS, tmp_path, 300)
    row = rows[1]
    assert row["total_ratio"] == pytest.approx(4)
    assert row["fid_difference_equal_updates"] == pytest.approx(0)
    # the last thirds: updates 250, 300 against 350, 400, 450 of the longer baseline
    late, longer = (100 / 250 + 100 / 300) / 2, (100 / 350 + 100 / 400 + 100 / 450) / 3
    assert row["fid_difference_equal_seconds"] == pytest.approx(late - longer)
    assert row["seconds_per_update_logged"] == pytest.approx(2)
    assert row["seconds_per_update"] == PLAN.reuse
    assert row["fid_difference_more"] == pytest.approx(0)
    assert "fid_difference_more" not in rows[-1]
    said = verdict(rows)
    assert len(said) == 4
    assert said[0].startswith("(8,16) iid: variance 4 [4, 4] times lower")
    assert "FID not resolved at equal updates" in said[0]
    assert "than (40,1) iid" in said[0]
    assert "than (40,1) iid" not in said[-1]
    assert "FID higher at equal seconds" in said[0]
    points = traces(compared, SEEDS, tmp_path)
    assert {p["arm"] for p in points} == {a.name for a in compared}
    draw_gap(points, [a.name for a in compared])


def test_equal_seconds_by_bisection() -> None:
    """The largest R within the seconds, whatever their form: here a call costs 1 and a sample 1/2."""
    for wanted, upstream in ((10.0, 18), (10.4, 18), (10.5, 19), (0.0, 8), (1e3, 136)):
        assert equal_upstream(wanted, lambda r: 1 + r / 2, 8, 136) == upstream


def test_a_ratio_takes_the_updates_at_which_both_were_measured() -> None:
    base = [{"step": 10, "v": 8.0}, {"step": 20, "v": 4.0}, {"step": 30, "v": 100.0}]
    arm = [{"step": 10, "v": 2.0}, {"step": 20, "v": 4.0}, {"step": 25}]
    assert log_ratio(base, arm, "v") == pytest.approx(math.log(4) / 2)


def test_time_per_update_leaves_measurements_out() -> None:
    rows = [{"step": s, "seconds": 0.5 * s + (100 if s > 40 else 0)} for s in range(10, 90, 10)]
    rows[3]["fid/fid"] = 1.0
    assert seconds_per_update(rows) == pytest.approx(0.5)
    with pytest.raises(UserError, match="too few"):
        seconds_per_update(rows[:2])


def test_a_failed_run_is_one_line_that_names_it(tmp_path: Path) -> None:
    job = Job("wrong", ("estimator.draws=0",))
    with pytest.raises(UserError, match=r"run wrong: estimator\.draws: 0 is below"):
        run_jobs([job], dmd_gap.CONFIG, tmp_path, 1)


def test_studies_start_at_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"train\.py: not in the current folder"):
        run_jobs([], dmd_gap.CONFIG, tmp_path, 1)


def test_an_unfinished_run_goes_on_and_a_finished_one_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is called: train.py anew, with --resume where there is a checkpoint; evaluate.py once."""
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(jobs, "_python", lambda job, *words: calls.append((job.name, *words)))
    for name, content in (("fresh", ()), ("cut", ("newest-step=2.ckpt",)), ("empty", ())):
        if name != "fresh":
            (tmp_path / name / "checkpoints").mkdir(parents=True)
        for file in content:
            (tmp_path / name / "checkpoints" / file).touch()
    (tmp_path / "cut/fid.json").touch()
    run_jobs([Job(n, ("a=1",)) for n in ("fresh", "cut", "empty")], Path("c.yaml"), tmp_path, 1)
    resumed = {c[0]: "--resume" in c for c in calls if c[1] == "train.py"}
    assert resumed == {"fresh": False, "cut": True, "empty": False}
    assert [c[0] for c in calls if c[1] == "evaluate.py"] == ["fresh", "empty"]
    calls.clear()
    run_jobs([Job(n, ("a=1",)) for n in ("fresh", "cut")], Path("c.yaml"), tmp_path, 1)
    assert not calls
    run_jobs(
        [Job("cut", ("a=2",))], Path("c.yaml"), tmp_path, 1
    )  # other words: it goes on, and is evaluated anew
    assert [c[1] for c in calls] == ["train.py", "evaluate.py"]
