"""What the tests of the converter share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from carv_distill.teachers.convert import main
from tests.helpers.edm_pickles import inject


@pytest.fixture
def _published_modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The modules that published pickles name, and an empty folder to work in."""
    inject(monkeypatch)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command on a file that must be refused: status 2, one line that names it, nothing written."""

    def run(path: Path, named: Path | None = None) -> str:
        before = sorted(Path().rglob("*"))
        assert main([str(path), "out"]) == 2
        line = capsys.readouterr().err
        assert line.startswith("error: ")
        assert line.count("\n") == 1
        assert str(named or path) in line
        assert sorted(Path().rglob("*")) == before
        assert not Path("ran").exists()
        return line

    return run
