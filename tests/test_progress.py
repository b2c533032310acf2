"""How far a piece of work is."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from carv_distill import progress as progress_module
from carv_distill.geometry.solids import ball
from carv_distill.progress import progress
from carv_distill.text_to_3d.object.mesh_files import write_mesh
from carv_distill.text_to_3d.object.turntable import write_turntable
from carv_distill.text_to_3d.options import ExportOptions, SceneOptions
from tests.helpers.solid_scenes import SolidScene


def export(folder: Path) -> None:
    """A small one."""
    scene = SolidScene(ball)
    write_mesh(folder, scene, ExportOptions(mesh=24, faces=500, texture=64))
    write_turntable(folder, scene, SceneOptions(samples=8), count=9, size=16)


def test_what_is_soon_over_says_nothing_in_a_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO):
        export(tmp_path)
    assert not caplog.messages
    assert capsys.readouterr() == ("", "")


def test_a_long_export_says_how_far_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part of it, up to its end."""
    monkeypatch.setattr(progress_module, "PATIENCE", -1.0)
    with caplog.at_level(logging.INFO):
        export(tmp_path)
    assert all(" · " in message and message.endswith(" left") for message in caplog.messages)
    last = dict(message.partition(" · ")[0].split(": ") for message in caplog.messages)
    assert list(last) == ["mesh", "colours", "texture", "views", "turntable"]
    assert {name: last[name] for name in ("mesh", "views", "turntable")} == {
        "mesh": "24 of 24",
        "views": "16 of 16",
        "turntable": "9 of 9",
    }
    for done, total in (last[name].split(" of ") for name in ("colours", "texture")):
        assert done == total


def test_a_terminal_has_a_bar_on_standard_error(
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which rich takes anything for a terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress_module, "PATIENCE", -1.0)
    with caplog.at_level(logging.INFO), progress("mesh", 3) as advance:
        advance(1)
        advance(2)
    out, error = capsys.readouterr()
    assert not out
    assert "mesh" in error
    assert "3/3" in error
    assert not caplog.messages


def test_elsewhere_a_line_says_what_matters_and_what_is_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "PATIENCE", -1.0)
    with caplog.at_level(logging.INFO), progress("student", 4) as advance:
        advance.say("student  FID 1.25")
        advance(3)
        advance(3)  # a last batch that is whole
    assert [message.partition(" · ")[0] for message in caplog.messages] == [
        "student  FID 1.25: 3 of 4",
        "student  FID 1.25: 4 of 4",
    ]
    caplog.clear()
    with caplog.at_level(logging.INFO), progress("student", 4, shown=False) as advance:
        advance(4)
    assert not caplog.messages
