"""Where a run computes, on which device of several, and in which precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.options import DMDConfig
from carv_distill.engine import devices
from carv_distill.engine.devices import (
    float32_matmul,
    launched,
    own_device,
    resolve_device,
    take_own_device,
)
from carv_distill.engine.options import TrainerOptions
from carv_distill.errors import UserError
from carv_distill.tasks import train


@pytest.mark.parametrize("before", ["highest", "high"])
@pytest.mark.parametrize("wanted", ["highest", "high"])
def test_the_precision_of_matrix_products_lasts_as_long_as_its_block(before: str, wanted: str) -> None:
    """Also when the block fails."""

    def fail() -> None:
        with float32_matmul(TrainerOptions(float32_matmul=wanted)):
            assert torch.get_float32_matmul_precision() == wanted
            raise ZeroDivisionError

    torch.set_float32_matmul_precision(before)
    try:
        with pytest.raises(ZeroDivisionError):
            fail()
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(("words", "expected"), [((), "highest"), (("trainer.float32_matmul=high",), "high")])
def test_a_run_computes_in_it(
    words: tuple[str, ...],
    expected: str,
    small_config: Callable[..., DMDConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[str] = []
    step = DMDModule.training_step

    def watched(self: DMDModule, batch: Any, batch_idx: int) -> None:
        found.append(torch.get_float32_matmul_precision())
        step(self, batch, batch_idx)

    monkeypatch.setattr(DMDModule, "training_step", watched)
    train(small_config("trainer.max_steps=2", *words))
    assert found == [expected] * 2
    assert torch.get_float32_matmul_precision() == "highest"


def test_another_precision_is_refused(small_config: Callable[..., DMDConfig]) -> None:
    with pytest.raises(UserError, match=r"trainer\.float32_matmul: 'medium' is not one of highest, high"):
        small_config("trainer.float32_matmul=medium")


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
    taken: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    take_own_device("cuda")
    take_own_device("cpu")
    assert taken == [device]
    assert own_device("cpu") == "cpu"


def test_more_gpus_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert resolve_device(TrainerOptions(devices=2)) == "cuda"
    assert resolve_device(TrainerOptions(accelerator="cpu", devices=3)) == "cpu"
    with pytest.raises(UserError, match=r"trainer\.devices: 3 GPUs are asked for, 2 are here"):
        resolve_device(TrainerOptions(devices=3))


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device(TrainerOptions()) == "cpu"
    with pytest.raises(UserError, match=r"trainer\.accelerator: cuda, but there is no CUDA device here"):
        resolve_device(TrainerOptions(accelerator="cuda"))


@pytest.mark.parametrize(("tasks", "nodes", "each"), [(8, 2, 4), (2, 2, 1), (3, 2, None)])
def test_nodes_of_a_slurm_job_have_as_many_tasks(
    tasks: int, nodes: int, each: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(devices.SLURMEnvironment, "detect", lambda: True)
    monkeypatch.setenv("SLURM_NTASKS", str(tasks))
    monkeypatch.setenv("SLURM_NNODES", str(nodes))
    if each is None:
        with pytest.raises(UserError, match="srun: 3 tasks on 2 nodes; every node needs as many"):
            launched(TrainerOptions())
    else:
        assert launched(TrainerOptions()) == (each, nodes)
