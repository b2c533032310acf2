"""Tables and figure from the study's own files."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from carv_distill.errors import UserError
from studies.dmd_gap import results, table
from studies.dmd_gap.__main__ import main
from studies.dmd_gap.arms import seeds_of
from studies.dmd_gap.settings import FASHION, SETTINGS
from tests.helpers.gap_runs import MORE, PLAN, SEEDS, make_runs


def test_the_tables_come_again_from_the_results(tmp_path: Path) -> None:
    """`--stored` concludes the same from `digits_{pilot,runs,traces}.json`, as often as it is called."""
    arms = make_runs(tmp_path / "runs")
    seeds = seeds_of(arms, SEEDS, MORE)
    metrics = table.read_runs(arms, seeds, tmp_path / "runs")
    finals = {arm.name: [arm.run(seed).fid(tmp_path / "runs") for seed in seeds[arm.name]] for arm in arms}
    folder = tmp_path / "dmd_gap"
    folder.mkdir()
    stored = {
        "pilot": {"plan": asdict(PLAN), "levels": {"floor": 0.5}, "rows": []},
        "runs": {"rows": table.run_rows(arms, metrics, finals, seeds)},
        "traces": {"rows": table.trace_rows(metrics)},
    }
    for part, content in stored.items():
        (folder / f"digits_{part}.json").write_text(json.dumps(content))
    rows = table.arm_rows(arms, table.trace_rows(metrics), finals)
    for _ in range(2):
        assert main(["--stored", "--out", str(tmp_path)]) == 0
        again = json.loads((folder / "digits.json").read_text())
        for row, other in zip(rows, again["rows"], strict=True):
            assert row == pytest.approx(other)
        assert again["seeds"] == MORE
        assert again["conclusion"][0].endswith("Quality follows variance here.")
        assert again["levels"] == {"floor": 0.5}
    assert (folder / "digits.png").is_file()


def test_results_that_are_not_there_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--stored", "--out", str(tmp_path)]) == 2
    assert "digits_pilot.json: no such results; run the study without --stored" in capsys.readouterr().err


def test_what_a_data_set_needs_is_missed_before_hours_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "pilot", lambda *_: pytest.fail("begun"))
    missing = replace(FASHION, words=("teacher.path=checkpoints/not-there",))
    monkeypatch.setitem(SETTINGS, "fashion", missing)
    assert main(["--data", "digits", "fashion", "--out", str(tmp_path), "--runs", str(tmp_path)]) == 2
    assert "--data: fashion needs checkpoints/not-there, which is not there" in capsys.readouterr().err


def test_fashion_is_held_to_a_rule_that_is_there_before_its_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not needed where digits come first, or where the rule is left out."""
    monkeypatch.setattr(results, "pilot", lambda *_: (_ for _ in ()).throw(UserError("begun")))
    words = ["--out", str(tmp_path), "--runs", str(tmp_path)]
    assert main(["--data", "fashion", *words]) == 2
    said = capsys.readouterr().err
    assert "fashion is held to the rule of digits" in said
    assert "digits_rule.json is not there" in said
    for more in (["--part", "arms", "why"], []):
        data = ["fashion"] if more else ["digits", "fashion"]
        assert main(["--data", *data, *more, *words]) == 2
        assert "begun" in capsys.readouterr().err
