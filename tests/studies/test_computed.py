"""Pieces of a study that are kept."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch

from studies.computed import computed


def piece(number: int, scale: float = 1.0) -> dict[str, Any]:
    return {"value": number * scale, "process": os.getpid(), "threads": torch.get_num_threads()}


def test_pieces_are_computed_once_aside_and_again_when_asked_otherwise(tmp_path: Path) -> None:
    asked = {"a/one": partial(piece, 1), "two": partial(piece, 2, scale=0.5)}
    first = computed(asked, tmp_path, 2)
    assert [f["value"] for f in first.values()] == [1, 1]
    assert all(f["process"] != os.getpid() and f["threads"] == 1 for f in first.values())
    assert computed(asked, tmp_path, 2) == first
    asked["two"] = partial(piece, 2, scale=3.0)
    again = computed(asked, tmp_path, 1)
    assert again["two"]["value"] == 6
    assert again["a/one"] == first["a/one"]
