"""What to do with a finished run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from carv_distill.engine.task import Task

from .clip import CLIP
from .command import Command
from .fid import FID
from .influence import INFLUENCE
from .variance import VARIANCE

STEPS = (FID, CLIP, VARIANCE, INFLUENCE)


def next_steps(task: Task, config: Any, run: Path, of: Sequence[Command] = STEPS) -> list[str]:
    """Those of these commands that can measure a run of this task and configuration, as they are typed."""
    able = [c for c in of if task in c.tasks and not c.refusal(task, config, c.options())]
    return [f"python evaluate.py {c.name} --run {shlex.quote(str(run))}" for c in able]
