"""The entry scripts in processes that need not load the libraries.

Loading them takes seven of the nine seconds of a small run. They are loaded once, by a server from which the
processes are forked; what else a process is made of (arguments, environment, streams, session, signals) is as
a shell would make it.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[2]
SCRIPTS = ("train.py", "evaluate.py")
LIBRARIES = ("carv_distill.tasks", "carv_distill.commands.train", "lightning.pytorch", "diffusers")

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload([*LIBRARIES, __name__])


def forked(function: Callable[..., None], *arguments: Any, daemon: bool = False) -> ForkServerProcess:
    """A process of the server, which has started."""
    process = _server.Process(target=function, args=arguments, daemon=daemon)
    with patch.dict(os.environ, OMP_NUM_THREADS="1"):  # of the server, at the first process
        process.start()
    return process


class Forked:
    """A process of an entry script, with the part of `subprocess.Popen`'s face that the tests use.

    Args:
        script: one of SCRIPTS.
        apart: keep what goes to standard error apart from standard output.
    """

    def __init__(
        self, script: str, words: Sequence[str], environment: Mapping[str, str], apart: bool = False
    ) -> None:
        assert script in SCRIPTS
        self.script, self.environment = script, dict(environment)
        self._out = Path(_new_file())
        self._error = Path(_new_file()) if apart else None
        streams = str(self._out), str(self._error or self._out)
        self._process = forked(_run, script, list(words), self.environment, streams)
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, or the signal's number below 0; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """As :attr:`returncode`."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Until the end, for so many seconds at most."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.script, timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it said on its streams, after its end."""
        self.wait(timeout)
        return _text(self._out), _text(self._error) if self._error else ""

    def send_signal(self, number: int) -> None:
        """To the process alone."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """At once."""
        self.send_signal(signal.SIGKILL)


def run(
    script: str, *words: str, seconds: float = 200, **environment: str
) -> subprocess.CompletedProcess[str]:
    """An entry script to its end, on one thread.

    Args:
        environment: beside this process's own.
    """
    process = Forked(
        script, words, {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", **environment}, apart=True
    )
    try:
        out, error = process.communicate(seconds)
    finally:
        process.kill()
    return subprocess.CompletedProcess([script, *words], process.wait(), out, error)


def _new_file() -> str:
    number, name = tempfile.mkstemp(prefix="carv-distill-test-")
    os.close(number)
    return name


def _text(path: Path) -> str:
    text = path.read_text(errors="replace")
    path.unlink()
    return text


def _run(script: str, words: list[str], environment: dict[str, str], streams: tuple[str, str]) -> None:
    assert "diffusers" in sys.modules, "the server has not loaded the libraries"
    os.setsid()
    os.chdir(ROOT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # a job in the background is born deaf to some
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, name in zip((1, 2), streams, strict=True):
        stream = os.open(name, os.O_WRONLY | os.O_APPEND)
        os.dup2(stream, descriptor)
        os.close(stream)
    sys.path.insert(0, str(ROOT))
    sys.argv = [script, *words]
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
