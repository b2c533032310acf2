"""Which run --resume means, and whether it may go on."""

from __future__ import annotations

import logging
import re
import shlex
from operator import eq
from pathlib import Path
from typing import Any

from carv_distill.errors import UserError
from carv_distill.options import leaves

from .config import config_from_dict
from .environment import NAME, contents, read_environment, require_layout
from .folder import CONFIG, WRITTEN, last_attempt, read_run_config
from .options import RunConfig
from .task import Task

log = logging.getLogger(__name__)


def run_to_resume(task: Task, config: RunConfig, source: Path | None = None) -> Path:
    """Of the runs that :func:`new_folder` makes of this name the newest that goes on with this configuration.

    Args:
        source: the configuration's file; where it is a run's own, that run is meant.

    Raises:
        UserError: none does; why the newest does not.
    """
    base = Path(config.folder, config.name)
    numbered = re.compile(rf"{re.escape(base.name)}(-([2-9]|[1-9]\d+))?")
    runs = [path.parent for path in base.parent.glob(f"*/{CONFIG}") if numbered.fullmatch(path.parent.name)]
    runs.sort(key=last_attempt, reverse=True)
    own = source is not None and source.resolve() == (base / CONFIG).resolve()
    reasons: list[UserError] = []
    for run in [base] if own else runs or [base]:
        try:
            require_same(task, config, run)
            require_checkpoints(run, config)
        except UserError as error:
            reasons.append(error)
            continue
        others = [shlex.quote(str(other / CONFIG)) for other in runs if other != run]
        if others and not own:
            log.info("%s goes on, the newest that fits; another by --config %s", run, " or ".join(others))
        return run
    raise reasons[0]


def require_same(task: Task, config: RunConfig, folder: Path) -> None:
    """UserError unless a folder is a run's that has the values which must not change."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"--resume: there is no run {folder} to resume; start it without --resume")
    if any((folder / "checkpoints").glob("*.ckpt")):  # an attempt killed early has its configuration alone
        require_layout(folder, "--resume")
    written = read_run_config(folder)
    if written.get("task") != task.name:
        raise UserError(_differs("task", written.get("task"), folder, task.name))
    # through the schema, so that a key which is younger than the run has its default
    saved = config_from_dict({task.name: task}, written, str(folder / CONFIG))
    before = {key: value for key, _, value, _ in leaves(saved)}
    now, differing = {key: value for key, _, value, _ in leaves(config)}, []
    started_with = read_environment(folder).get("contents", {}) if (folder / NAME).is_file() else {}
    for key, spec, value, free in leaves(config):
        if key == "trainer.max_steps" and task.fixed_length(config):
            free = False
        if key == "name" or free:  # a run's name is its folder's
            continue
        if spec.metadata.get("content") and key in started_with:
            _require_content(key, value, started_with[key], contents(config).get(key), folder)
        elif not (_same_place if spec.metadata.get("place") else eq)(before[key], value):
            differing.append(key)
    if differing:
        first = differing[0]
        others = f" (other values differ too: {', '.join(differing[1:])})" if differing[1:] else ""
        if first == "trainer.max_steps":
            raise UserError(_longer(task, config, before[first], folder, others))
        raise UserError(_differs(first, before[first], folder, now[first], others))


def _require_content(key: str, value: Any, before: str, now: str | None, folder: Path) -> None:
    """UserError unless a file or folder holds what it held, wherever it lies now."""
    if now != before:
        what = "is not here any more" if now is None else "has other content than"
        raise UserError(
            f"--resume: {key}: {value} {what} the one that {folder} was started with; a resumed run keeps "
            "its own: name that one (or give another name to start a new run)"
        )


def _same_place(before: str | None, now: str | None) -> bool:
    """Whether two paths, which may begin in different working folders, lead to one file."""
    if before == now or before is None or now is None:
        return before == now
    old, new = Path(before), Path(now)
    if old.exists() and new.exists():
        return old.samefile(new)
    # moved with its environment it keeps its name and its folder's; runs/a/teacher is not runs/b/teacher
    return new.exists() and old.parts[-2:] == new.parts[-2:]


def _differs(key: str, before: Any, folder: Path, now: Any, others: str = "") -> str:
    """That a resumed run has another value."""
    return (
        f"--resume: {key} was {before!r} in {folder}, now {now!r}{others}; a resumed run keeps its values: "
        "say them again (or give another name to start a new one)"
    )


def _longer(task: Task, config: RunConfig, before: int, folder: Path, others: str) -> str:
    """That a resumed run has another length than its updates are made for, and what a longer one begins
    with."""
    key, begin = "trainer.max_steps", ""
    if task.begins(config):
        options = ((at, spec.metadata.get("begin")) for at, spec, *_ in leaves(config))
        begin = next((f"; {at} says with what {who}" for at, who in options if who), "")
    return (
        f"--resume: {key} was {before} in {folder}, over which {task.fixed_length(config)}, now "
        f"{config.trainer.max_steps}{others}; say {key}={before} to finish that run, or give another name to "
        f"start a new one{begin}"
    )


def require_own(task: Task, config: RunConfig, folder: Path) -> None:
    """UserError unless a folder without checkpoints is what an attempt at this very run left, which may have
    been killed at any moment, or empty."""
    if (folder / CONFIG).is_file():
        require_same(task, config, folder)
        return
    foreign = sorted(p.name for p in folder.iterdir() if p.name not in WRITTEN and p.suffix != ".tmp")
    if foreign:
        raise UserError(f"--requeue: {folder} is no run's folder: it holds {foreign[0]} and no {CONFIG}")


def require_checkpoints(folder: Path, config: RunConfig) -> None:
    """UserError for a run that ended before its first checkpoint."""
    if not any((folder / "checkpoints").glob("*.ckpt")):
        raise UserError(
            f"--resume: {folder} ended before its first checkpoint (checkpoint.every: "
            f"{read_run_config(folder)['checkpoint']['every']}); start it anew, without --resume, or with "
            "--requeue"
        )
