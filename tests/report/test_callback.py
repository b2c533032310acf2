"""The page while a run goes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from carv_distill.engine.task import PageWords
from carv_distill.report import callback
from carv_distill.report.callback import ReportPage


def test_it_is_written_at_checkpoints_and_at_most_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Updates take 25 s here, checkpoints come every second one: the clock says 0, 50, 100, 150 s at them."""
    written: list[tuple[int, None, PageWords]] = []
    clock = SimpleNamespace(now=1000.0)
    trainer = SimpleNamespace(global_step=0, max_steps=100)
    monkeypatch.setattr(callback.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(
        callback, "keep_report", lambda run, steps, words: written.append((trainer.global_step, steps, words))
    )
    page = ReportPage(tmp_path, 2, words := PageWords("Text-to-3D"))
    for step in range(2, 10):
        trainer.global_step, clock.now = step, 1000 + 25.0 * step
        page.on_train_batch_end(trainer, None)  # type: ignore[arg-type]
    assert written == [(2, None, words), (6, None, words)]
