"""Results of a study that are computed aside, and kept."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from studies.cached import compute, once


def call(number: int, scale: float = 1.0) -> tuple[float, int, int]:
    return number * scale, os.getpid(), torch.get_num_threads()


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


@dataclass(frozen=True)
class Price:
    seconds: float


def test_what_was_timed_once_stays(tmp_path: Path) -> None:
    path = tmp_path / "below" / "price.json"
    assert once(path, Price, lambda: Price(1.5)) == Price(1.5)
    assert once(path, Price, lambda: Price(2.5)) == Price(1.5)
