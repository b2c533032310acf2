"""A window is closed however its session ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from carv_distill.commands.view import VIEW, ViewOptions
from carv_distill.tasks import load_config
from tests.helpers.runs import as_run

pytest.importorskip("viser")

from carv_distill.text_to_3d.viewer import session


class InterruptedWindow:
    """By Ctrl-C, as soon as it is to show something."""

    closed = 0

    def __init__(self, *_: object) -> None: ...

    def say(self, facts: object) -> None:
        raise KeyboardInterrupt

    def close(self) -> None:
        InterruptedWindow.closed += 1


def test_ctrl_c_before_anything_is_shown_closes_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise the thread that paints would keep the process for ever."""
    run = as_run(load_config("sds_carv", [f"folder={tmp_path}"]), checkpoint=False)
    monkeypatch.setattr(session, "Window", InterruptedWindow)
    VIEW.measure(ViewOptions(run=run), [run], "cpu")
    assert InterruptedWindow.closed == 1
    assert capsys.readouterr().out == "ended\n"
