"""What every study writes: values that read back, metadata, no half files; mistakes in one line."""

from __future__ import annotations

import argparse
import getpass
import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from carv_distill.errors import UserError
from carv_distill.figures import new_figure
from carv_distill.variance import mean_estimate
from studies.attribution_budget.__main__ import OF_CLIPS
from studies.attribution_budget.__main__ import main as attribution_budget
from studies.study import Study, columns, filled, run_study, study_parser
from tests.helpers.small import ROOT, largest_file

ROWS = [
    {"strategy": "iid, uniform", "K": 1, "variance": 1 / 3, "holds": True},
    {"strategy": '"quoted"', "K": 2, "extra": None},
]


def study(out: Path, *words: str) -> Study:
    parser = study_parser(None, seeds=2)
    words = (*words, "--seeds", "2", "--out", str(out))
    return Study("toy_importance", parser.parse_args(words), words)


def test_json_and_csv_hold_the_rows_and_say_how_they_came_about(tmp_path: Path) -> None:
    study(tmp_path, "--seed", "3").write("rates", ROWS, verdict=["all is well"])
    folder = tmp_path / "toy_importance"
    assert sorted(p.name for p in folder.iterdir()) == ["rates.csv", "rates.json"]
    content = json.loads((folder / "rates.json").read_text())
    assert content["rows"] == ROWS
    assert content["verdict"] == ["all is well"]
    assert content["command"] == "python -m studies.toy_importance --seed 3 --seeds 2"
    assert content["seeds"] == [3, 4]
    assert content["seconds"] >= 0
    assert {"cpu", "cores", "torch", "python", "os"} <= content["machine"].keys()
    lines = (folder / "rates.csv").read_text().splitlines()
    metadata = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
    assert metadata["command"] == content["command"]
    assert metadata["seeds"] == "[3, 4]"
    assert metadata["machine.torch"] == content["machine"]["torch"]
    table = pd.read_csv(folder / "rates.csv", comment="#", float_precision="round_trip")
    assert table.strategy.tolist() == [r["strategy"] for r in ROWS]
    assert table["K"].tolist() == [1, 2]
    assert table.variance[0] == 1 / 3
    assert table[["variance", "extra"]].iloc[1].isna().all()
    assert filled(table)[1] == {"strategy": '"quoted"', "K": 2}


@pytest.mark.parametrize("form", ["--out {}", "--out={}", "--runs {}", "--runs={}"])
def test_no_path_host_or_user_is_written(tmp_path: Path, form: str) -> None:
    words = [*form.format(tmp_path / "place").split(), "--seed", "5"]
    options = study_parser(None, trains=True).parse_args([*words, "--out", str(tmp_path)])
    made = Study("toy_importance", options, words)
    made.write("rates", ROWS)
    text = "".join(path.read_text() for path in made.folder.iterdir())
    assert "toy_importance --seed 5" in text
    for secret in (str(tmp_path), str(Path.cwd()), platform.node(), f"/{getpass.getuser()}/"):
        assert secret not in text


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    made = study(tmp_path)
    made.write("rates", ROWS)
    before = {path: path.read_bytes() for path in made.folder.iterdir()}
    with largest_file(64), pytest.raises(OSError, match="File too large"):
        made.write("rates", ROWS)
    assert {path: path.read_bytes() for path in made.folder.iterdir()} == before


def test_a_figure_is_800_pixels_wide(tmp_path: Path) -> None:
    made = study(tmp_path)
    made.draw("rates", new_figure())
    png = (made.folder / "rates.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20], "big") == 800


def test_an_unknown_interval_is_an_empty_cell() -> None:
    assert columns("ecm", mean_estimate([2.0])) == {
        "ecm": 2.0,
        "ecm_se": None,
        "ecm_low": None,
        "ecm_high": None,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seed -1", "--seed: '-1' is not a whole number"),
        ("--seed x", "--seed: 'x' is not a whole number"),
        ("--quik", "unrecognized arguments: --quik"),
        ("--out {}/file/below", "/file/below/toy_importance cannot be made (Not a directory)"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    (tmp_path / "file").touch()

    def never(study: Study, arguments: argparse.Namespace) -> None:
        raise AssertionError

    try:
        status: object = run_study(
            "toy_importance", study_parser(None), never, words.format(tmp_path).split()
        )
    except SystemExit as stop:  # argparse leaves by itself
        status = stop.code
    assert status == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("error", [UserError("no teacher"), OSError(28, "No space left on device", "a.csv")])
def test_what_goes_wrong_in_a_study_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fails(study: Study, arguments: argparse.Namespace) -> None:
        raise error

    assert run_study("toy_importance", study_parser(None), fails, ["--out", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_parts_of_clips_run_when_they_are_asked_for_and_need_their_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before anything is computed or written."""
    parser = study_parser(None, parts=("draws",), more=OF_CLIPS, trains=True)
    assert parser.parse_args([]).part == ("draws",)
    (tmp_path / "checkpoints" / "digits-teacher").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert attribution_budget(["--part", "video", "draws"]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(
        r"error: --part: video needs a teacher of clips in checkpoints/clips-teacher,.*\n", said
    )
    assert not any(p.is_file() for p in tmp_path.rglob("*"))


def test_help_needs_nothing_slow() -> None:
    """What a study imports before its options are understood."""
    names = ("toy_importance", "dmd_gap", "dmd_bottleneck", "sds_frontier", "attribution_budget")
    imports = "; ".join(f"import studies.{name}.__main__" for name in names)
    slow = "{'torch', 'numpy', 'pandas', 'matplotlib', 'lightning', 'rich'}"
    code = f"import sys; {imports}; print({slow} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"
