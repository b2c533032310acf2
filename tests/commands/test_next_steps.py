"""What a finished run goes on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from carv_distill.commands.next_steps import next_steps
from carv_distill.tasks import TASKS, load_config


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ("dmd_carv", ["fid", "variance", "influence"]),
        ("sds_carv", ["view", "clip", "variance"]),
        ("teacher_digits", ["fid", "influence"]),
        ("teacher_clips", ["influence"]),
    ],
)
def test_a_run_s_own_commands_and_no_others(config: str, names: list[str]) -> None:
    loaded = load_config(config, [])
    run = Path("runs/with a blank")
    assert next_steps(TASKS[loaded.task], loaded, run) == [
        f"python {'-m carv_distill' if name == 'view' else 'evaluate.py'} {name} --run 'runs/with a blank'"
        for name in names
    ]
