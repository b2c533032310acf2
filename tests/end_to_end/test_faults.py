"""Processes that are told to stop, that die, that hang, or that are not the same program."""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers.forked import Forked
from tests.helpers.launch import Process, finish, srun_two, start
from tests.helpers.runs import assert_same_run
from tests.helpers.small import SMALL

DMD = ("--config", "configs/dmd_carv.yaml", *SMALL, "checkpoint.every=1000")
LONG = ("trainer.max_steps=100000", "trainer.patience=6")


def wait_for_updates(run: Path, updates: int = 3) -> None:
    """Until the run has logged so many."""
    end = time.monotonic() + 100
    while time.monotonic() < end:
        metrics = run / "metrics.csv"
        if metrics.is_file() and metrics.read_text().count("\n") > updates:
            return
        time.sleep(0.1)
    raise AssertionError("no updates were made")


@pytest.mark.slow
@pytest.mark.ddp
def test_two_processes_leave_at_one_update_when_one_is_told_to(tmp_path: Path) -> None:
    """SIGTERM to process 1 alone: both exit with 75, one checkpoint is kept, and `--requeue` goes on to what
    an uninterrupted run makes, bit for bit."""
    words = (*DMD, f"folder={tmp_path}")
    tasks = srun_two(*words, "name=run", *LONG)
    wait_for_updates(tmp_path / "run")
    tasks[1].send_signal(signal.SIGTERM)
    (first, output), (second, told) = finish(tasks, 60)
    assert (first, second) == (75, 75), output + told
    assert "stopped: SIGTERM received; update" in told
    assert "stopped: another process was told to stop; update" in output
    (kept,) = (tmp_path / "run/checkpoints").glob("newest-*.ckpt")
    step = int(kept.stem.split("=")[1])
    last = f"trainer.max_steps={step + 2}"
    for name, more in (("run", "--requeue"), ("whole", "--requeue")):
        for status, output in finish(srun_two(*words, f"name={name}", last, more)):
            assert status == 0, output
    assert_same_run(tmp_path / "run", tmp_path / "whole", step + 2, same_files=False)


@pytest.mark.ddp
@pytest.mark.parametrize("fault", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_a_process_that_dies_or_hangs_stops_the_others(fault: signal.Signals, tmp_path: Path) -> None:
    """Within `trainer.patience` and a few seconds, with a line that says so."""
    tasks = srun_two(*DMD, *LONG, f"folder={tmp_path}")
    wait_for_updates(tmp_path / "dmd_carv")
    tasks[1].send_signal(fault)
    start_of_wait = time.monotonic()
    try:
        ((status, output),) = finish(tasks[:1], 60)
    finally:
        tasks[1].kill()
        tasks[1].communicate()
    assert status in (2, 3), output
    assert "another process of this run died or gave no sign of life" in output
    assert "Traceback" not in output
    assert time.monotonic() - start_of_wait < 30


@pytest.mark.slow
@pytest.mark.ddp
def test_processes_with_different_configurations_do_not_start(tmp_path: Path) -> None:
    tasks = srun_two(*DMD, f"folder={tmp_path}")
    tasks[1].kill()
    tasks[1].communicate()
    job = {k: v for k, v in job_of(tasks[0]).items() if k.startswith(("SLURM_", "MASTER_"))}
    job |= {"SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
    other = start([sys.executable, "train.py", *DMD, f"folder={tmp_path}", "dmd.fake_lr=0.5"], **job)
    for status, output in finish([tasks[0], other], 100):
        assert status == 2
        assert "error: dmd.fake_lr: process 1 has 0.5, process 0 has 0.0006" in output


def job_of(process: Process) -> dict[str, str]:
    """The environment that a process was started with."""
    assert isinstance(process, Forked)
    return process.environment


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.timeout(1800)
def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    """`kill -9` of one process or of both, at twenty random moments, saves among them, as every update saves:
    the run arrives where an uninterrupted one does, bit for bit, and leaves no half-written file."""
    random.seed(0)
    updates = 60
    words = (*DMD, "checkpoint.every=1", f"folder={tmp_path}", f"trainer.max_steps={updates}")
    for status, output in finish(srun_two(*words, "name=whole")):
        assert status == 0, output
    run, kills = tmp_path / "run", 0
    while kills < 20:
        before = newest(run)
        tasks = srun_two(*words, "name=run", "--requeue")
        while newest(run) <= before and all(t.poll() is None for t in tasks):
            time.sleep(0.02)
        time.sleep(random.uniform(0, 0.6))
        for task in random.sample(tasks, random.choice((1, 2))):
            task.kill()
        for (status, output), task in zip(finish(tasks, 60), tasks, strict=True):
            assert status in (-signal.SIGKILL, 2, 3, 0), output
            assert task.poll() is not None
        kills += 1
    for status, output in finish(srun_two(*words, "name=run", "--requeue")):
        assert status == 0, output
    assert_same_run(tmp_path / "whole", run, updates)
    assert not [p for p in run.rglob(".*") if p.name.endswith(".tmp")]
    for path in (run / "checkpoints").glob("*.ckpt"):
        torch.load(path, weights_only=True)


def newest(run: Path) -> int:
    """The step of the newest checkpoint, −1 without one."""
    steps = [int(p.stem.split("=")[1]) for p in (run / "checkpoints").glob("newest-step=*.ckpt")]
    return max(steps, default=-1)
