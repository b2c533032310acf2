"""What ends a run early."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from carv_distill.engine.callbacks import StopOnNonFinite
from carv_distill.engine.interruptions import Interruption, check_equal, stop_at_once
from carv_distill.errors import PREEMPTED, StoppedError, UserError


def test_what_differs_is_named() -> None:
    """Processes of one run are the same program."""
    check_equal([{"a": 1, "b": 2}] * 3)
    with pytest.raises(UserError, match="b: process 2 has 3, process 0 has 2"):
        check_equal([{"a": 1, "b": 2}] * 2 + [{"a": 1, "b": 3}])
    with pytest.raises(UserError, match="c: process 1 has 1, process 0 has None"):
        check_equal([{}, {"c": 1}])


def test_a_signal_outside_of_the_updates_ends_the_work_at_once() -> None:
    """With the status by which job scripts start a run again; Ctrl-C stays Python's."""
    before = signal.getsignal(signal.SIGTERM)
    with (
        pytest.raises(StoppedError, match="SIGTERM received outside of the updates; half is kept") as stopped,
        stop_at_once("half is kept"),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
    assert str(stopped.value).endswith("of the updates; half is kept")
    assert stopped.value.status == PREEMPTED
    assert signal.getsignal(signal.SIGTERM) is before
    interrupt = signal.getsignal(signal.SIGINT)
    with stop_at_once("half is kept"):
        assert signal.getsignal(signal.SIGINT) is interrupt


@pytest.fixture
def _hears_ctrl_c() -> Iterator[None]:
    """A suite that a shell started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_hears_ctrl_c")
def test_a_second_ctrl_c_says_what_is_kept_without_a_link_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carv_distill.engine.interruptions.leave_signals_alone", lambda trainer: None)
    checkpoints: Any = SimpleNamespace(folder=tmp_path)
    trainer: Any = None
    for names, kept in (
        ((), "nothing is kept"),
        (("newest-step=9.ckpt", "best-step=10.ckpt", "newest-step=10.ckpt"), "newest-step=10.ckpt is kept, "),
    ):
        for name in names:
            (tmp_path / name).touch()
        interruption = Interruption(checkpoints, StopOnNonFinite(100))
        with interruption.listening(trainer):
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(StoppedError, match=f"interrupted after update 0; {kept}"):
                os.kill(os.getpid(), signal.SIGINT)


def test_on_a_gpu_a_signal_does_not_keep_what_is_not_finite() -> None:
    """There losses are looked at now and then: between two looks all of it may be NaN."""
    kept: list[int] = []
    checkpoints: Any = SimpleNamespace(keep_newest=lambda trainer: kept.append(trainer.global_step))
    trainer: Any = SimpleNamespace(global_step=507, max_steps=1000, world_size=1)
    module: Any = SimpleNamespace(
        latest_losses={"student": torch.tensor(torch.nan)},
        device=torch.device("cuda"),
        parameters=lambda: [torch.ones(1, requires_grad=True)],
        check=lambda: None,
    )
    healthy = StopOnNonFinite(100)
    interruption = Interruption(checkpoints, healthy)
    healthy.on_train_batch_end(trainer, module)
    interruption.received = signal.SIGTERM
    with pytest.raises(UserError, match="non-finite loss of the student network at step 507"):
        interruption.on_train_batch_end(trainer, module)
    assert not kept
    healthy.first_bad.clear()
    module.latest_losses["student"] = torch.tensor(1.0)
    healthy.on_train_batch_end(trainer, module)
    with pytest.raises(StoppedError, match="SIGTERM received; update 507 is kept"):
        interruption.on_train_batch_end(trainer, module)
    assert kept == [507]
