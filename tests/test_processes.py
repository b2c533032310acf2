"""How one of several processes ends."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch

from carv_distill.errors import UserError
from carv_distill.processes import Processes
from tests.helpers.launch import finish, free_port, start

WORK = """
import sys, time
import torch
from carv_distill.command_line import run_command
from carv_distill.errors import StoppedError, UserError
from carv_distill.processes import Processes

def work():
    processes = Processes.launched("cpu")
    processes.wait()
    if {alone}:
        if processes.rank:
            raise UserError("this one has enough")
        processes.wait()
    raise StoppedError("all have enough", 75)

status = run_command(work)
print("groups up:", torch.distributed.is_initialized())
sys.exit(status)
"""


def outcomes(folder: Path, alone: bool) -> list[tuple[int, str]]:
    """(exit status, output) of two processes."""
    script = folder / "work.py"
    script.write_text(WORK.format(alone=alone))
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    words = [sys.executable, str(script)]
    tasks = [start(words, **group, TORCHELASTIC_RUN_ID="1", RANK=str(r), PYTHONPATH=".") for r in range(2)]
    return finish(tasks, 60)


@pytest.mark.ddp
def test_processes_that_stop_together_end_their_group(tmp_path: Path) -> None:
    for status, output in outcomes(tmp_path, alone=False):
        assert (status, output) == (75, "stopped: all have enough\ngroups up: False\n")


@pytest.mark.slow
@pytest.mark.ddp
def test_a_process_that_leaves_alone_waits_for_no_other(tmp_path: Path) -> None:
    """It goes with its status and its word; the exchange that the other waits in fails, and no interpreter is
    taken down under a thread that still waits."""
    before = time.monotonic()
    (left, failed), (status, output) = outcomes(tmp_path, alone=True)
    assert (status, output) == (2, "error: this one has enough\n")
    assert (left, "DistBackendError" in failed or "RuntimeError" in failed) == (1, True), failed
    assert time.monotonic() - before < 40


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a device that is not there is asked for."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"than this machine has GPUs, 2; .*--device cpu"):
        Processes.launched("cuda")
