"""A run's folder: its name, what it says of itself, and which one is meant."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from operator import eq
from pathlib import Path
from typing import Any

import yaml

from carv_distill import __version__
from carv_distill.errors import UserError
from carv_distill.files import write_json, write_text
from carv_distill.options import leaves
from carv_distill.provenance import git_state

from .config import Tasks, config_from_dict, to_dict
from .options import RunConfig
from .task import Task
from .values import plain, read_yaml

LAYOUT = 2
"""Of a run's folder and its checkpoints; runs before 0.2.0 have another."""
_PACKAGES = ("torch", "lightning", "diffusers", "torchmetrics", "torch-fidelity", "omegaconf")


def new_folder(config: RunConfig) -> Path:
    """The first free folder of this name, as another run is never written into; UserError if it cannot be."""
    base = Path(config.folder, config.name)
    folder, suffix = base, 2
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            folder = base.with_name(f"{base.name}-{suffix}")
            suffix += 1
        except OSError as error:
            raise UserError(f"folder: {folder} cannot be made ({error.strerror})") from error


def folder_to_resume(task: Task, config: RunConfig) -> Path:
    """The run named by the config.

    Raises:
        UserError: there is none, or it has other values that must not change.
    """
    folder = Path(config.folder, config.name)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"--resume: there is no run {folder} to resume; start it without --resume")
    if any((folder / "checkpoints").glob("*.ckpt")):  # an attempt killed early has its configuration alone
        require_layout(folder, "--resume")
    written = read_run_config(folder)
    if written.get("task") != task.name:
        raise UserError(_differs("task", written.get("task"), folder, task.name))
    # through the schema, so that a key which is younger than the run has its default
    saved = config_from_dict({task.name: task}, written, str(folder / "config.yaml"))
    before = {key: value for key, _, value, _ in leaves(saved)}
    now, differing = {key: value for key, _, value, _ in leaves(config)}, []
    for key, spec, value, free in leaves(config):
        if key == "trainer.max_steps" and task.fixed_length(config):
            free = False
        same = _same_place if spec.metadata.get("place") else eq
        if not same(before[key], value) and not free:
            differing.append(key)
    if differing:
        first = differing[0]
        others = f" (other values differ too: {', '.join(differing[1:])})" if differing[1:] else ""
        raise UserError(_differs(first, before[first], folder, now[first], others))
    return folder


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
    return (
        f"--resume: {key} was {before!r} in {folder}, now {now!r}{others}; a resumed run keeps its values: "
        "say them again (or give another name to start a new one)"
    )


def require_checkpoints(folder: Path, config: RunConfig) -> None:
    """UserError for a run that ended before its first checkpoint."""
    if not any((folder / "checkpoints").glob("*.ckpt")):
        raise UserError(
            f"--resume: {folder} ended before its first checkpoint (checkpoint.every: "
            f"{read_run_config(folder)['checkpoint']['every']}); start it anew, without --resume, or with "
            "--requeue"
        )


def require_layout(folder: Path, key: str) -> None:
    """UserError for a run whose checkpoints are of an earlier version."""
    environment = read_environment(folder)
    if environment.get("layout") != LAYOUT:
        by = environment.get("packages", {}).get("carv-distill", "an earlier version")
        raise UserError(
            f"{key}: the checkpoints of {folder} were written by carv-distill {by}, this is "
            f"{__version__}, which has another layout; go on with that version, or start a new "
            "run"
        )


def check_shares(folder: Path, shares: int) -> None:
    """UserError unless a resumed run cuts its batch into as many shares as it was started with."""
    before = read_environment(folder)["shares"]
    if before != shares:
        raise UserError(
            f"--resume: {folder} was started with {before} shares of a batch (processes × accumulated ones), "
            f"now {shares}; with dmd.global_batch other numbers of processes make the same shares"
        )


def newest_run(root: Path, tasks: Sequence[Task]) -> Path:
    """The run of one of these tasks whose last attempt is newest; UserError without any."""
    names = [task.name for task in tasks]
    runs = [path.parent for path in root.glob("*/environment.json")]
    runs = [run for run in runs if read_run_config(run).get("task") in names]
    if not runs:
        raise UserError(
            f"{root} holds no run of task {' or '.join(names)}; make one with "
            f"python train.py --config configs/{tasks[0].example}"
        )
    return max(runs, key=lambda run: (run / "environment.json").stat().st_mtime_ns)


def open_run(tasks: Tasks, folder: Path) -> tuple[Task, RunConfig]:
    """The task and the configuration of a run.

    Raises:
        UserError: the run is of an earlier version, whose configuration cannot be read.
    """
    values = read_run_config(folder)
    try:
        config = config_from_dict(tasks, values, str(folder / "config.yaml"))
    except UserError as error:
        if (folder / "environment.json").is_file() and read_environment(folder).get("layout") != LAYOUT:
            raise UserError(f"{folder} is a run of an earlier version: {error}") from error
        raise
    return tasks[config.task], config


def write_environment(folder: Path, config: RunConfig, device: str, processes: int, shares: int) -> None:
    """config.yaml with every value, and environment.json with versions, git state and command."""
    import torch  # whoever only reads a folder does without

    text = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    write_text(folder / "config.yaml", text)
    environment = {
        "layout": LAYOUT,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git": git_state(),
        "python": platform.python_version(),
        "packages": {"carv-distill": __version__, **{name: version(name) for name in _PACKAGES}},
        "device": device,
        "threads": torch.get_num_threads(),
        "world_size": processes,
        "shares": shares,
    }
    write_json(folder / "environment.json", environment)


def read_environment(folder: Path) -> dict[str, Any]:
    """A run's environment.json."""
    content: dict[str, Any] = json.loads((folder / "environment.json").read_text())
    return content


def trained_by(folder: Path) -> dict[str, Any]:
    """What a measurement says about the training it measured: configuration and commit."""
    return {"git": read_environment(folder)["git"], "config": read_run_config(folder)}


def read_run_config(folder: Path) -> dict[str, Any]:
    """A run's own config.yaml; UserError for another folder."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"{folder} is not a run's folder: it has no config.yaml")
    values: dict[str, Any] = plain(read_yaml(path))
    return values


def product_of(run: Path, name: str) -> Path:
    """The folder of what a run made; UserError where there is none yet."""
    if not (run / name).is_dir():
        raise UserError(f"{run}: no {name} folder; the run has not reached its first checkpoint")
    return run / name


def remove_leftovers(folder: Path, product: str) -> None:
    """Half-written files of a process that was killed."""
    for path in [*folder.rglob(".*.tmp"), *folder.glob(f".{product}-*")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
