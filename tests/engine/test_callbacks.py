"""How long a run still takes."""

from __future__ import annotations

import pytest
from rich.progress import Progress

from carv_distill.engine.callbacks import seconds_left


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
