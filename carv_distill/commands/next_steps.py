"""What to do with a finished run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from carv_distill.engine.task import Task

from .clip import CLIP
from .fid import FID
from .influence import INFLUENCE
from .variance import VARIANCE
from .view import VIEW

STEPS = (VIEW, FID, CLIP, VARIANCE, INFLUENCE)


def next_steps(task: Task, config: Any, run: Path) -> list[str]:
    """Those of these commands that take a run of this task and configuration, as they are typed."""
    able = [c for c in STEPS if task in c.tasks and not c.refusal(task, config, c.options())]
    return [f"{c.door} {c.name} --run {shlex.quote(str(run))}" for c in able]
