"""What to do with a finished run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from PIL import Image

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

FILM, MESH, FACES = 512, 192, 80_000
"""Pixels of a film and points of a mesh's grid along one side, to show somebody, and the faces that such a
grid is worth."""
STEPS = (VIEW, FID, CLIP, VARIANCE, INFLUENCE)


def next_steps(task: Task, config: Any, run: Path) -> dict[str, str]:
    """Those of these commands that take a run of this task and configuration, as they are typed, by their
    names; not those whose result, of the product as it is now, is there, nor an FID where the run was told to
    measure none: its features need not take such images. What trains with its product comes first, what
    makes it larger last."""
    able = [c for c in STEPS if task in c.tasks and not c.refusal(task, config, c.options())]
    if FID in able and not config.fid.every:
        able.remove(FID)
    measured = {
        c.name: f"{c.door} {c.name} --run {shlex.quote(str(run))}" for c in able if not _is_done(c, run)
    }
    return task.further(config, run) | measured | _larger(task, config, run)


def _larger(task: Task, config: Any, run: Path) -> dict[str, str]:
    """What a film and a mesh to show are made by, where an object's own are smaller."""
    if not task.renders or config.export.size >= FILM or _is_large(run / task.product / "views.png"):
        return {}
    mesh = f" --mesh {MESH} --faces {max(FACES, config.export.faces)}"
    mesh = "" if config.scene.kind == "gaussians" or config.export.mesh >= MESH else mesh
    return {"export": f"python evaluate.py export --run {shlex.quote(str(run))} --size {FILM}{mesh}"}


def _is_large(views: Path) -> bool:
    """Whether a sheet of views, eight in a row of half a film's pixels at most, was made with such a film."""
    try:
        with Image.open(views) as picture:
            return picture.width >= 8 * FILM // 2
    except OSError:  # there is none, or no picture
        return False


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
