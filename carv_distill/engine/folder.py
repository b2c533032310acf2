"""A run's folder: its name, what it says about its origin, and where the newest one is."""

from __future__ import annotations

import json
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from carv_distill.errors import UserError
from carv_distill.files import write_json, write_text
from carv_distill.provenance import git_state
from carv_distill.tasks import SCHEMAS

from .config import config_from_dict, flat, to_dict
from .console import is_main_process
from .options import Config, RunConfig

# What may change when a run goes on: what it measures and keeps, and how long it is. Anything else would
# make it another run.
_MAY_CHANGE = re.compile(
    r"(trainer\.(max_steps|log_every|accelerator|devices|num_nodes|patience)|folder|data\.(path|workers)"
    r"|(fid|variance|preview|checkpoint)\..+)"
)
_PACKAGES = ("carv-distill", "torch", "lightning", "diffusers", "torchmetrics", "torch-fidelity", "omegaconf")


def new_folder(config: RunConfig) -> Path:
    """The first free folder of this name; another run is never written into."""
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


def folder_to_resume(config: RunConfig) -> Path:
    """The run named by the config.

    Raises:
        UserError: there is none, or it was made with values that must not change.
    """
    folder = Path(config.folder, config.name)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"--resume: there is no run {folder} to resume; start it without --resume")
    # through the schema, so that a key which is younger than the run has its default
    saved = config_from_dict(read_run_config(folder), str(folder / "config.yaml"))
    before, now = flat(to_dict(saved)), flat(to_dict(config))
    fixed_length = now.get("dmd.lr_decay", "cosine") != "none"  # a teacher's rate decays too
    for key in sorted(before | now):
        may_change = _MAY_CHANGE.fullmatch(key) and not (key == "trainer.max_steps" and fixed_length)
        if before.get(key) != now.get(key) and not may_change:
            raise UserError(
                f"--resume: {key} was {before.get(key)!r} in {folder}, now {now.get(key)!r}; "
                "a resumed run keeps its values (give another name to start a new one)"
            )
    if is_main_process():  # a slower rank would remove what rank 0 is writing by then
        _remove_leftovers(folder)
    return folder


def check_shares(folder: Path, shares: int) -> None:
    """A resumed run cuts its batch into as many shares as it was started with, on any number of processes.

    Raises:
        UserError: the numbers differ.
    """
    environment = json.loads((folder / "environment.json").read_text())
    before = environment.get("shares", environment["world_size"])
    if before != shares:
        raise UserError(
            f"--resume: {folder} was started with {before} shares of a batch (processes × accumulated ones), "
            f"now {shares}; with dmd.global_batch other numbers of processes make the same shares"
        )


def newest_run(root: Path, tasks: Sequence[str]) -> Path:
    """The run of one of these tasks whose last attempt is newest.

    Raises:
        UserError: there is no such run.
    """
    runs = [path.parent for path in root.glob("*/environment.json")]
    runs = [run for run in runs if read_run_config(run).get("task") in tasks]
    if not runs:
        raise UserError(
            f"{root} holds no run of task {' or '.join(tasks)}; make one with "
            f"python train.py --config configs/{tasks[0]}_carv.yaml"
        )
    return max(runs, key=lambda run: (run / "environment.json").stat().st_mtime_ns)


def write_origin(folder: Path, config: RunConfig, device: str, world_size: int, shares: int) -> None:
    """config.yaml with every value, and environment.json with versions, git state and command."""
    text = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    write_text(folder / "config.yaml", text)
    environment = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git": git_state(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "device": device,
        "threads": torch.get_num_threads(),
        "world_size": world_size,
        "shares": shares,
    }
    write_json(folder / "environment.json", environment)


def origin_of(folder: Path) -> dict[str, Any]:
    """What a measurement says about the training it measured: configuration and commit."""
    environment = json.loads((folder / "environment.json").read_text())
    return {"git": environment["git"], "config": read_run_config(folder)}


def run_config(folder: Path, kind: type[Config]) -> Config:
    """The configuration of a run of one task.

    Raises:
        UserError: not a run's folder, or a run of another task.
    """
    config = config_from_dict(read_run_config(folder), str(folder / "config.yaml"))
    if not isinstance(config, kind):
        wanted = next(task for task, schema in SCHEMAS.items() if schema is kind)
        raise UserError(f"{folder}: its task is {config.task}; this is for runs of task {wanted}")
    return config


def read_run_config(folder: Path) -> dict[str, Any]:
    """A run's own config.yaml.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"{folder} is not a run's folder: it has no config.yaml")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not a valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: a configuration is a mapping of keys to values")
    return values


def _remove_leftovers(folder: Path) -> None:
    """Half-written files of a process that was killed."""
    for path in [*folder.rglob(".*.tmp"), *folder.glob(".student-*"), *folder.glob(".teacher-*")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
