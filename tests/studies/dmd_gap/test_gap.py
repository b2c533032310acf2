"""The statistics of the variance-versus-FID study, on made-up runs."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from studies.dmd_gap.__main__ import main
from studies.dmd_gap.gap import (
    Arm,
    Plan,
    draw_gap,
    equal_upstream,
    log_ratio,
    make_arms,
    of_runs,
    read_runs,
    summarise,
    trace_rows,
    verdict,
)

PLAN = Plan(upstream=40, noise="antithetic", base=0.2, reuse=0.3, more=0.3)
SEEDS = [0, 1, 2]


def make_runs(folder: Path, updates: int, every: int) -> list[Arm]:
    """Metrics of runs in which (8,16) iid has a quarter of the variance and the same FID, by construction."""
    compared = make_arms(updates, PLAN, every)
    for i, arm in enumerate(compared):
        for seed in SEEDS:
            run = folder / arm.run(seed).name
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
    metrics = read_runs(compared, SEEDS, tmp_path)
    fids = {arm.name: [arm.run(seed).fid(tmp_path) for seed in SEEDS] for arm in compared}
    rows = summarise(compared, metrics, of_runs(compared, metrics, fids), 300)
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
    assert row["final_fid_three_ranges"] == 2
    said = verdict(rows)
    assert len(said) == 8
    assert said[0].startswith("(8,16) iid, variance of (8,1) iid over its own: in total 4.000 [4.000, 4.000]")
    assert "at equal updates, than (8,1) iid 0.000 [0.000, 0.000], not resolved" in said[1]
    assert "than (40,1) iid 0.000" in said[1]
    assert "than (40,1) iid" not in said[-1]
    assert said[1].split("at equal seconds")[1].split(";")[0].endswith("higher")
    traces = trace_rows(metrics)
    assert {row["arm"] for row in traces} == {a.name for a in compared}
    assert traces[0] == {"arm": "(8,1) iid", "seed": 0, "step": 50, "seconds": 50 * 0.2, "fid": 2 + 100 / 50}
    assert draw_gap(traces).axes


def test_a_ratio_takes_the_updates_at_which_both_were_measured() -> None:
    base = [{"step": 10, "v": 8.0}, {"step": 20, "v": 4.0}, {"step": 30, "v": 100.0}]
    arm = [{"step": 10, "v": 2.0}, {"step": 20, "v": 4.0}, {"step": 25}]
    assert log_ratio(pd.DataFrame(base), pd.DataFrame(arm), "v") == pytest.approx(math.log(4) / 2)


def test_equal_seconds_by_bisection() -> None:
    """The largest R within the seconds, whatever their form: here a call costs 1 and a sample 1/2."""
    for wanted, upstream in ((10.0, 18), (10.4, 18), (10.5, 19), (0.0, 8), (1e3, 136)):
        assert equal_upstream(wanted, lambda r: 1 + r / 2, 8, 136) == upstream


def test_the_table_comes_again_from_the_results(tmp_path: Path) -> None:
    """`--stored` makes the same rows from traces.json and dmd_gap.json, and keeps what trained them."""
    compared = make_runs(tmp_path / "runs", 300, 25)
    metrics = read_runs(compared, SEEDS, tmp_path / "runs")
    fids = {arm.name: [2.0, 3.0, 4.0] for arm in compared}
    rows = summarise(compared, metrics, of_runs(compared, metrics, fids), 300)
    folder = tmp_path / "dmd_gap"
    folder.mkdir()
    head = {
        "command": "python -m studies.dmd_gap",
        "machine": {},
        "git": None,
        "seconds": 1.0,
        "seeds": SEEDS,
    }
    (folder / "dmd_gap.json").write_text(json.dumps({**head, "plan": asdict(PLAN), "rows": rows}))
    (folder / "traces.json").write_text(json.dumps({"rows": trace_rows(metrics)}))
    for _ in range(2):
        assert main(["--stored", "--out", str(tmp_path)]) == 0
        again = json.loads((folder / "dmd_gap.json").read_text())
        for row, other in zip(rows, again["rows"], strict=True):
            assert row == pytest.approx(other)
        assert again["trained"]["command"] == head["command"]
        assert again["seeds"] == SEEDS
        assert "--stored" in again["command"]


def test_results_that_are_not_there_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--stored", "--out", str(tmp_path)]) == 2
    assert "dmd_gap.json: no such results" in capsys.readouterr().err
