"""What all commands of evaluate.py have in common."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from carv_distill.commands.command import Measurement, measure
from carv_distill.commands.evaluate import COMMANDS
from carv_distill.commands.reference import REFERENCE, ReferenceOptions


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("shared", [True, False])
def test_processes_share_the_work_of_a_command_or_the_first_one_does_it(
    rank: int, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else several would write over each other's results."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    monkeypatch.setenv("RANK", str(rank))
    asked: list[Any] = []

    def work(*arguments: Any) -> Measurement | None:
        asked.append(arguments)
        return None

    options = ReferenceOptions(data="digits", out=tmp_path / "digits.npz", device="cpu")
    measure(replace(REFERENCE, measure=work, shared=shared), options)
    assert len(asked) == (shared or rank == 0)


def test_tasks_of_a_scheduler_may_each_measure_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As srun starts them, without torchrun: none of them does nothing in silence."""
    monkeypatch.setenv("SLURM_PROCID", "1")
    asked: list[Any] = []
    options = ReferenceOptions(data="digits", out=tmp_path / "digits.npz", device="cpu")
    measure(replace(REFERENCE, measure=lambda *arguments: asked.append(arguments), shared=False), options)
    assert len(asked) == 1


def test_four_share_their_work() -> None:
    assert {name for name, command in COMMANDS.items() if command.shared} == {
        "fid",
        "reference",
        "clip",
        "influence",
    }
