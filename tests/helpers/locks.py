"""Runs that another process owns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.helpers.small import ROOT

HOLD = """
import sys
from pathlib import Path
from carv_distill.engine.lock import owned
with owned(Path(sys.argv[1])):
    print("owned", flush=True)
    sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """A process that owns the folder until its input ends."""
    words = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "owned\n"
    return process
