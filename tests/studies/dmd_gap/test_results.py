"""Tables and figure from the study's own files."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from carv_distill.errors import UserError
from carv_distill.files import read_json, write_json
from studies.dmd_gap import results, rule, settings, table
from studies.dmd_gap.__main__ import main
from studies.dmd_gap.arms import seeds_of
from studies.dmd_gap.settings import FASHION, SETTINGS
from tests.helpers.gap_runs import MORE, PLAN, SEEDS, make_runs


@pytest.mark.slow
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


def test_the_state_that_fashion_begins_from_is_missed_with_how_to_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(settings, "START", tmp_path / "start.pt")
    begins = replace(FASHION, words=(f"dmd.start={settings.START}",))
    monkeypatch.setitem(SETTINGS, "fashion", begins)
    words = ["--data", "fashion", "--part", "arms", "--out", str(tmp_path), "--runs", str(tmp_path)]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "start.pt, which is not there (python -m studies.dmd_gap.start makes it)" in said


def test_fashion_is_held_to_a_rule_that_is_there_before_its_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not needed where digits come first, or where the rule is left out."""
    monkeypatch.setitem(SETTINGS, "fashion", replace(FASHION, words=()))  # from the teacher, which ships
    monkeypatch.setattr(results, "pilot", lambda *_: (_ for _ in ()).throw(UserError("begun")))
    words = ["--out", str(tmp_path), "--runs", str(tmp_path)]
    for data in ("fashion", "text_to_image"):
        assert main(["--data", data, *words]) == 2
        said = capsys.readouterr().err
        assert f"{data} is held to the rule of digits" in said
        assert "digits_rule.json is not there" in said
    for more in (["--part", "arms", "why"], []):
        data = ["fashion"] if more else ["digits", "fashion"]
        assert main(["--data", *data, *more, *words]) == 2
        assert "begun" in capsys.readouterr().err


def test_prompts_are_trained_for_the_rule_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No pilot, no arms: two estimators, held to the border that digits have."""
    known = {"setting": "a", "data": "digits", "noise_left": 1.0, "noise_exact": 1.0, "outcome": "followed"}
    known |= {"noise_left_least": False, "noise_exact_least": False, "followed": True}
    known |= {"difference": -1.0, "difference_se": 0.2, "difference_low": -2.0, "difference_high": -0.5}
    found = known | {"setting": "shapes", "data": "text_to_image"}
    trained: list[rule.Pair] = []
    monkeypatch.setattr(rule, "train", lambda pairs, *_: trained.extend(pairs))
    monkeypatch.setattr(rule, "measure", lambda *_: [found])
    folder = tmp_path / "dmd_gap"
    write_json(folder / "digits_rule.json", {"seeds": [0], "rows": [known]})
    words = ["--data", "text_to_image", "--out", str(tmp_path), "--runs", str(tmp_path)]
    assert main([*words, "--part", "arms", "why"]) == 0
    assert not trained
    assert main(words) == 0
    assert [pair.name for pair in trained] == ["text_to_image, R = 12, 160 updates, to the end"]
    judged = read_json(folder / "rule.json")
    assert [row["setting"] for row in judged["rows"]] == ["a", "shapes"]
    assert "shapes: N = 1" in capsys.readouterr().out
