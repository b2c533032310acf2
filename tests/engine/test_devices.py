"""Where a run computes, and in which precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.devices import float32_matmul, local_rank
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
    ("environment", "rank"),
    [({}, 0), ({"LOCAL_RANK": "3", "SLURM_LOCALID": "1"}, 3), ({"SLURM_LOCALID": "2"}, 2)],
)
def test_the_number_of_a_process_on_its_node(
    environment: dict[str, str], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert local_rank() == rank
