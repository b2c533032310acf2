"""What is shown while a run goes on, and how long it still takes."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.progress import Progress

from carv_distill.engine.callbacks import ProgressLine, seconds_left


def test_the_time_left_is_of_all_updates_so_far() -> None:
    """100 s for 25 of this attempt's 125 updates, however fast the last one was."""
    now = 0.0
    progress = Progress(get_time=lambda: now, disable=True)
    number = progress.add_task("updates", total=135, completed=10, first=10)
    task = progress.tasks[number]
    assert seconds_left(task) is None
    now = 99.9
    progress.update(number, completed=34)
    now = 100.0
    progress.update(number, completed=35)
    assert seconds_left(task) == pytest.approx(400)


def test_a_figure_that_is_measured_now_and_then_has_its_update(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loss is of the update that is shown, an FID stays what it was. In a file lines stand for the bar."""
    trainer: Any = SimpleNamespace(max_steps=4, global_step=0, is_global_zero=True)
    line = ProgressLine({"loss": "loss {:.1f}", "fid": "FID {:.2f}"}, 2, 3)  # log and measurement
    line.on_train_start(trainer, None)
    with caplog.at_level(logging.INFO):
        for step, fid in ((1, 3.0), (2, 3.0), (3, 2.5), (4, 2.5)):
            trainer.global_step = step
            trainer.callback_metrics = {"loss": torch.tensor(step / 10), "fid": torch.tensor(fid)}
            line.on_train_batch_end(trainer, None)
    line.on_train_end(trainer, None)
    lines = [record.getMessage().split(" · ")[1:] for record in caplog.records]
    shown = [[figure for figure in line if not figure.endswith(" left")] for line in lines]
    assert shown == [
        [],
        ["loss 0.2", "FID 3.00"],
        ["loss 0.3", "FID 2.50"],
        ["loss 0.4", "FID 2.50 at update 3"],
    ]
    assert "updates" not in capsys.readouterr().err  # as the bar begins; other tests may have logs shown
