"""Which GPU is a process's own."""

from __future__ import annotations

import pytest
import torch

from carv_distill.engine.devices import own_device


@pytest.mark.parametrize(
    ("said", "gpus", "device"),
    [
        ({}, 4, "cuda:0"),
        ({"LOCAL_RANK": "3"}, 4, "cuda:3"),
        ({"SLURM_LOCALID": "2"}, 4, "cuda:2"),
        ({"SLURM_LOCALID": "2"}, 1, "cuda:0"),  # each task sees its own GPU alone
        ({"LOCAL_RANK": "1", "SLURM_LOCALID": "0"}, 2, "cuda:1"),
    ],
)
def test_of_several_gpus_it_is_that_of_its_number(
    said: dict[str, str], gpus: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert own_device("cuda") == device
    assert own_device("cpu") == "cpu"
