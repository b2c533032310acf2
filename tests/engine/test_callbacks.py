"""What is shown while a run goes on, and how long it still takes."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.progress import Progress

from carv_distill.engine.callbacks import Periodic, ProgressLine, StepLog, seconds_left, write_metrics
from carv_distill.engine.loggers.metrics_csv import MetricsLogger
from carv_distill.engine.metrics import read_metrics


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


class Measurement(Periodic):
    """Of what is trained, at the last update too; it takes a second."""

    def __init__(self, every: int, clock: list[float]) -> None:
        super().__init__(every, last=True)
        self.clock = clock

    def act(self, trainer: Any, module: Any) -> None:
        self.clock[0] += 1
        write_metrics(trainer, {"fid": 5.0})


def test_every_row_has_the_seconds_of_its_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten for an update and one for a measurement, whose row, its own or shared, has those before it."""
    clock = [100.0]
    monkeypatch.setattr("carv_distill.engine.callbacks.time.perf_counter", lambda: clock[0])
    log = StepLog(2)
    log.load_state_dict({"seconds": 7.0})
    callbacks = [log, Measurement(3, clock)]
    loggers = [MetricsLogger(tmp_path / "metrics.csv")]
    trainer: Any = SimpleNamespace(global_step=0, max_steps=7, callbacks=callbacks, loggers=loggers)
    module: Any = SimpleNamespace(metrics=lambda: {"loss": torch.tensor(2.0)}, log_dict=lambda *_, **__: None)
    clock[0] = 200.0
    log.on_train_start(trainer, module)
    write_metrics(trainer, {"fid": 9.0})  # before the first update
    for trainer.global_step in range(1, 8):
        clock[0] += 10
        for callback in callbacks:
            callback.on_train_batch_end(trainer, module)
    rows = {int(row["step"]): row for row in read_metrics(tmp_path / "metrics.csv")}
    seconds = {step: row["seconds"] for step, row in rows.items()}
    assert seconds == {0: 7, 2: 27, 3: 37, 4: 48, 6: 68, 7: 79}
    assert [step for step, row in rows.items() if "loss" in row] == [2, 4, 6, 7]
    assert [step for step, row in rows.items() if "fid" in row] == [0, 3, 6, 7]
