"""The page after a measurement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from carv_distill.commands.command import Command, CommonOptions, Measurement, measure
from carv_distill.commands.report import renew_page
from carv_distill.tasks import load_config
from tests.helpers.pages import plain_words
from tests.helpers.runs import as_run
from tests.helpers.small import ROOT


def test_a_measurement_renews_the_page_of_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In its own place; with --out nothing but that file is written."""
    run = as_run(load_config(ROOT / "configs/dmd_carv.yaml", [f"folder={tmp_path}"]))
    scores = {"fid": {"mean": 1.25, "std": 0.5}}
    result = {"student": {"summary": scores}}
    command = Command("fid", "", CommonOptions, lambda *_: Measurement([], result), place=lambda _: run)
    measure(command, CommonOptions(out=tmp_path / "elsewhere/fid.json", device="cpu"), renew_page)
    assert [f.name for f in (tmp_path / "elsewhere").iterdir()] == ["fid.json"]
    assert not (run / "report.html").exists()
    measure(command, CommonOptions(device="cpu"), renew_page)
    assert "1.25 ± 0.5" in plain_words((run / "report.html").read_text())
    assert f"a page to open: {run / 'report.html'}" in capsys.readouterr().out


def test_results_are_on_disk_before_they_are_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture that cannot be drawn takes neither the file nor the tables along."""
    run = as_run(load_config(ROOT / "configs/dmd_carv.yaml", [f"folder={tmp_path}"]))

    def draw() -> list[Path]:
        assert json.loads((run / "fid.json").read_text())["value"] == 3
        raise OSError("the encoder failed")

    drawing = Measurement(["a table"], {"value": 3}, draw=draw)
    command = Command("fid", "", CommonOptions, lambda *_: drawing, place=lambda _: run)
    with pytest.raises(OSError, match="the encoder failed"):
        measure(command, CommonOptions(device="cpu"))
    assert capsys.readouterr().out.startswith("a table\nwritten to ")


def test_results_without_a_run_have_a_page_in_a_folder_of_their_own(tmp_path: Path) -> None:
    result = {"about": {"score": "trak"}, "conclusions": ["It agrees."], "queries": []}
    own, elsewhere = tmp_path / "influence-teacher", tmp_path / "somewhere"
    for place in (own, elsewhere):
        place.mkdir()
        (place / "report.html").write_text("somebody's")
        command = Command(
            "influence", "", CommonOptions, lambda *_: Measurement([], result), place=lambda _, p=place: p
        )
        measure(command, CommonOptions(device="cpu"), renew_page)
    assert "It agrees." in (own / "report.html").read_text()
    assert (elsewhere / "report.html").read_text() == "somebody's"
