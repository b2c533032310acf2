"""The console command."""

from __future__ import annotations

import pytest

from carv_distill.cli import COMMANDS, main


def test_every_command_has_a_line_of_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["__main__.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    said = capsys.readouterr().out
    assert said.startswith("usage: carv-distill ")
    assert all(f"\ncarv-distill {name} " in said for name in COMMANDS)


def test_without_a_command_they_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["carv-distill"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err.startswith("error: which command? train, evaluate, view, push, convert;")


@pytest.mark.parametrize(
    ("started", "said"),
    [
        (["carv-distill", "train", "--help"], "usage: carv-distill train "),
        (["carv-distill", "evaluate", "fid", "--help"], "usage: carv-distill evaluate fid "),
        (["a/carv_distill/__main__.py", "train", "--help"], "usage: carv-distill train "),
    ],
)
def test_a_usage_can_be_copied(
    started: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", started)
    with pytest.raises(SystemExit, match="0"):
        main()
    assert capsys.readouterr().out.startswith(said)


def test_a_misspelt_command_is_guessed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["carv-distill", "evalute", "fid"])
    with pytest.raises(SystemExit, match="2"):
        main()
    said = capsys.readouterr().err
    assert said.startswith("error: evalute: no command (did you mean evaluate?); there are train, evaluate, ")
    assert said.count("\n") == 1
