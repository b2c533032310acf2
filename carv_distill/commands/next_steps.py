"""What to do with a finished run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from carv_distill.engine.folder import product_step
from carv_distill.engine.task import Task
from carv_distill.errors import UserError
from carv_distill.files import read_json

from .clip import CLIP
from .command import Command
from .fid import FID
from .influence import INFLUENCE
from .variance import VARIANCE
from .view import VIEW

STEPS = (VIEW, FID, CLIP, VARIANCE, INFLUENCE)


def next_steps(task: Task, config: Any, run: Path) -> dict[str, str]:
    """Those of these commands that take a run of this task and configuration, as they are typed, by their
    names; not those whose result, of the product as it is now, is there, nor an FID where the run was told to
    measure none: its features need not take such images. A look at it and what is made of its product come
    first."""
    able = [c for c in STEPS if task in c.tasks and not c.refusal(task, config, c.options())]
    if FID in able and not config.fid.every:
        able.remove(FID)
    measured = {
        c.name: f"{c.door} {c.name} --run {shlex.quote(str(run))}" for c in able if not _is_done(c, run)
    }
    look = {name: line for name, line in measured.items() if name == VIEW.name}
    return look | task.further(config, run) | measured


def _is_done(command: Command, run: Path) -> bool:
    """Whether its result lies in the run, and not of an earlier update than the product's."""
    file = run / f"{command.name}.json"
    if not file.is_file():
        return False
    try:
        trained = read_json(file).get("trained")
    except UserError:  # it cannot be read, which the page says
        return False
    measured = trained.get("product_step") if isinstance(trained, dict) else None
    return measured is None or measured == product_step(run)
