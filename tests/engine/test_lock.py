"""One process at a time owns a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from carv_distill.engine.lock import owned
from carv_distill.errors import UserError
from tests.helpers.locks import HOLD, hold
from tests.helpers.small import ROOT


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    """Also where the first was killed, and a child of its own goes on."""
    first = hold(tmp_path)
    with pytest.raises(UserError, match="is in use: another process trains or exports it"), owned(tmp_path):
        raise AssertionError
    first.kill()
    first.communicate()
    with owned(tmp_path):
        pass
    second = hold(tmp_path)
    second.communicate()
    with owned(tmp_path):
        pass


def test_a_child_does_not_inherit_it(tmp_path: Path) -> None:
    with owned(tmp_path):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        done = subprocess.run(
            [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, input="", capture_output=True, text=True
        )
        assert done.returncode == 1
        assert "is in use" in done.stderr


def test_a_folder_that_takes_no_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.lock: cannot be opened"), owned(tmp_path / "gone"):
        raise AssertionError
