"""`kill -9` at any moment costs time and nothing else: runs of every kind arrive at the same bits."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.launch import Process, start
from tests.helpers.runs import assert_same_run, sds_words
from tests.helpers.small import SMALL
from tests.helpers.tiny_latent import save_tiny_pipeline

KILLS = 20
UPDATES = 24


def dmd(folder: Path) -> list[str]:
    return ["configs/dmd_carv.yaml", *SMALL, "fid.every=12", "fid.images=32", f"folder={folder}"]


def sds(folder: Path) -> list[str]:
    return ["configs/sds_carv.yaml", *sds_words(save_tiny_pipeline(folder / "pipeline"), folder)]


def teacher(folder: Path) -> list[str]:
    small = (
        "training.batch=8",
        "fid.every=12",
        "fid.images=32",
        "fid.sampler_steps=2",
        "trainer.log_every=1",
    )
    return [
        "configs/teacher_digits.yaml",
        *small,
        "trainer.log_every=1",
        "trainer.accelerator=cpu",
        f"folder={folder}",
    ]


def start_again(words: list[str]) -> Process:
    return start([sys.executable, "train.py", "--requeue", "--config", *words])


def is_writing(run: Path) -> bool:
    """Whether a checkpoint or a product is half written."""
    return any(run.glob(".*.tmp")) or any(run.glob("checkpoints/.*.tmp"))


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("words", [dmd, sds, teacher], ids=lambda w: w.__name__)
def test_twenty_kills_lose_nothing(words: Callable[[Path], list[str]], tmp_path: Path) -> None:
    """Every third one while something is saved or exported, the others anywhere, before the first update and
    after the last one too; the run is started anew where it had come to its end."""
    (tmp_path / "pipeline").mkdir(exist_ok=True)
    common = [*words(tmp_path), f"trainer.max_steps={UPDATES}", "checkpoint.every=2"]
    whole = start_again([*common, "name=whole"])
    said, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, said
    chance, run, kills, names = random.Random(len(common)), tmp_path / "run0", 0, 0
    ends = [run]
    while kills < KILLS:
        process = start_again([*common, f"name={run.name}"])
        if kills % 3 == 0:
            while process.poll() is None and not is_writing(run):
                time.sleep(0.0005)
        else:
            before = len(list(run.glob("checkpoints/*.ckpt")))
            while process.poll() is None and len(list(run.glob("checkpoints/*.ckpt"))) <= min(before, 1):
                time.sleep(0.02)
            time.sleep(chance.uniform(0, 1.5))
        if process.poll() is not None:  # it had come to its end: what follows is killed in a run of its own
            assert process.returncode == 0, process.communicate()
            names += 1
            run = tmp_path / f"run{names}"
            ends.append(run)
            continue
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    for end in ends:
        process = start_again([*common, f"name={end.name}"])
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert_same_run(tmp_path / "whole", end, UPDATES)
        assert not list(end.rglob(".*.tmp"))
