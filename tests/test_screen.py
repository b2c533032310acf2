"""Nothing that reaches the terminal is obeyed by it, and what it cannot take is no error of the work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from carv_distill.screen import duration, printable

WRITES = """
import sys
from carv_distill.screen import guard_streams
guard_streams()
for i in range(3000):
    print("a line with ± and größe", i)
    print("and of errors", file=sys.stderr)
sys.stdout.flush()
open(sys.argv[1], "w").write("done")
"""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("\u202etxt", "\\u202etxt"),
        ("\udcff", "\\udcff"),
        ("a\rb\x07\x7f\x9b", "a\\rb\\x07\\x7f\\x9b"),
        ("größe ± σ\nnext", "größe ± σ\nnext"),
    ],
)
def test_control_characters_are_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    "shell",
    [
        "{} | true",
        "{} 2>&1 | head -n 1",
        "{} > /dev/full",
        "{} > /dev/full 2>&1",
        "{} >&- 2>&-",
        "PYTHONIOENCODING=ascii {}",
    ],
)
def test_what_the_screen_cannot_take_is_dropped(shell: str, tmp_path: Path) -> None:
    """The work goes on to its end with status 0."""
    (tmp_path / "w.py").write_text(WRITES)
    out = tmp_path / "out"
    command = shell.format(f"{sys.executable} {tmp_path}/w.py {out}")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, out.read_text()) == (0, "done"), done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (7000, "117 min"), (11100, "3 h 5 min")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text
