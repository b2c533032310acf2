"""Results of a study that are computed aside, and kept."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch

from carv_distill.errors import UserError
from studies.cached import compute, once, require_same


def call(number: int, scale: float = 1.0) -> tuple[float, int, int]:
    return number * scale, os.getpid(), torch.get_num_threads()


@pytest.mark.slow
def test_calls_are_computed_once_aside_and_again_with_other_arguments(tmp_path: Path) -> None:
    calls = {"one": partial(call, 1), ("a", 2): [partial(call, 2, scale=0.5)]}
    first = compute(calls, tmp_path, 2)
    value, process, threads = first["one"]
    assert (value, threads) == (1, 1)
    assert process != os.getpid()
    assert first["a", 2][0][0] == 1
    assert compute(calls, tmp_path, 2) == first
    again = compute({**calls, ("a", 2): [partial(call, 2, scale=3.0)]}, tmp_path, 1)
    assert again["a", 2][0][0] == 6
    assert again["one"] == first["one"]


def of_folder(folder: str) -> int:
    return len(folder)


def test_results_of_a_run_or_teacher_that_has_changed_are_refused(tmp_path: Path) -> None:
    """What an evaluation adds to a run is no change; nothing that is kept is lost; nor is a folder of results
    without a note of what they are of."""
    run, teacher, kept = tmp_path / "run", tmp_path / "teacher", tmp_path / "cache"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 0")
    (run / "checkpoints" / "step=1.ckpt").write_bytes(b"1")
    teacher.mkdir()
    (teacher / "config.json").write_text("{}")
    (teacher / "model.safetensors").write_bytes(b"first")
    calls = [partial(of_folder, str(run))]
    found = compute(calls, kept, 1, [teacher])
    (kept / "made_of.json").unlink()
    assert compute(calls, kept, 1, [teacher]) == found
    (run / "fid.json").write_text("{}")
    require_same(kept, [run, teacher])

    (teacher / "model.safetensors").write_bytes(b"other")
    said = f"{teacher}: has changed since the results in {kept} were computed of it; put it back, or remove "
    with pytest.raises(UserError) as refused:
        compute(calls, kept, 1, [teacher])
    assert str(refused.value).startswith(said)
    (teacher / "model.safetensors").write_bytes(b"first")
    assert compute(calls, kept, 1, [teacher]) == found
    (run / "checkpoints" / "step=1.ckpt").write_bytes(b"anew")
    with pytest.raises(UserError, match=f"^{run}: has changed since"):
        compute(calls, kept, 1)


@dataclass(frozen=True)
class Price:
    seconds: float


def test_what_was_timed_once_stays(tmp_path: Path) -> None:
    path = tmp_path / "below" / "price.json"
    assert once(path, Price, lambda: Price(1.5)) == Price(1.5)
    assert once(path, Price, lambda: Price(2.5)) == Price(1.5)
