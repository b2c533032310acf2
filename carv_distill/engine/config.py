"""A configuration, filled from one YAML and `key=value` overrides, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from os.path import expanduser
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from carv_distill.errors import UserError
from carv_distill.files import shipped
from carv_distill.options import check_limits, leaves, likeness, option_text

from .options import RunConfig
from .task import Task
from .values import Source, typed, with_overrides
from .yaml_files import Scalar, read_yaml

Tasks = Mapping[str, Task]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_LONGEST_NAME = 200
"""Bytes of a run's name: the folder's, with room for a number behind it."""

_OFFERED = 4
"""Shipped configurations that are named for one that is not there."""


def load_config(
    tasks: Tasks,
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    complete: bool = False,
    begins: bool = True,
    environment: bool = False,
) -> RunConfig:
    """Reads a YAML, applies `key=value` overrides, checks types, limits, and what goes together.

    Args:
        config: as for :func:`find_config`.
        complete: files and folders that it names must be there;
        begins: those too that only a run which begins needs.
        environment: ${oc.env:NAME} is replaced by the environment variable; else it is refused.

    Raises:
        UserError: an override without `=`, or anything that does not fit.
    """
    path = find_config(config)
    given, pairs = read_yaml(path), []
    for override in overrides:
        key, equals, word = override.partition("=")
        if not equals:
            raise UserError(
                f"override {override!r} has no '='; write key=value, as in estimator.draws=16, and quotes "
                "around a value with blanks"
            )
        pairs.append((key, word))
    source, words = Source(f"in {path}", environment), Source("on the command line", environment)
    own = dict(pairs).get("task")
    task = _task_of(tasks, given.get("task"), source) if own is None else _task_of(tasks, own, words)
    values = with_overrides(task.config, typed(task.config, given, source), pairs, words)
    filled = _filled(tasks, task, values, source)
    filled.folder = expanduser(filled.folder)
    _find_places(filled, _bases(path), complete, begins)
    return filled


def config_from_dict(tasks: Tasks, values: Mapping[str, Any], source: str) -> RunConfig:
    """The same checks for values already read; `source` names them in messages."""
    origin = Source(f"in {source}")
    task = _task_of(tasks, values.get("task"), origin)
    return _filled(tasks, task, typed(task.config, values, origin), origin)


def find_config(config: str | Path) -> Path:
    """The file itself, or the shipped configuration of that name, as dmd_carv or cifar10/dmd_carv; UserError
    if it is neither."""
    path = Path(config)
    if path.is_file():
        return path
    if not path.name:
        raise UserError(f"--config: {str(config)!r} names no file, nor a shipped configuration")
    name = path if path.suffix == ".yaml" else path.with_name(f"{path.name}.yaml")
    for candidate in (shipped("configs") / name, shipped("configs").parent / name):
        if candidate.is_file():
            return candidate
    home = shipped("configs")
    known = sorted(str(p.relative_to(home).with_suffix("")) for p in home.rglob("*.yaml"))
    word = Path(str(Path(config).with_suffix("")).removeprefix("configs/"))

    def alike(name: str) -> tuple[float, float]:
        whole = likeness(str(word), name)
        return max(whole, likeness(word.name, Path(name).name)), whole

    nearest = ", ".join(sorted(known, key=alike, reverse=True)[:_OFFERED])
    raise UserError(
        f"--config: {config} is not a file, nor the name of a shipped configuration; the nearest are "
        f"{nearest}, and all {len(known)} lie in {home}"
    )


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Every value resolved, as plain Python."""
    return asdict(config)


def flat(config: RunConfig) -> dict[str, Any]:
    """Every value under its key with dots."""
    return {key: value for key, _, value, _ in leaves(config)}


def _task_of(tasks: Tasks, name: Any, source: Source) -> Task:
    if isinstance(name, Scalar) or not isinstance(name, str) or name not in tasks:
        raise UserError(f"task: {name!r} is not one of {', '.join(tasks)} ({source.where})")
    return tasks[name]


@cache
def _schema(task: Task) -> DictConfig:
    """Made once, as making it takes longer than to read a file by it; a merge copies it."""
    return OmegaConf.structured(task.config)


def _filled(tasks: Tasks, task: Task, values: dict[str, Any], source: Source) -> RunConfig:
    """The task's configuration with these values, checked."""
    try:
        config = OmegaConf.to_object(OmegaConf.merge(_schema(task), values))
    except MissingMandatoryValue as error:
        what = f"{error.full_key}: it has no value yet; give one, as {error.full_key}=… ({source.where})"
        raise UserError(f"{what}. {option_text(task.config, str(error.full_key))}") from error
    assert isinstance(config, RunConfig)
    check_limits(config)
    name = config.name
    if (
        Path(name).name != name
        or name in ("", ".", "..")
        or name[0] == "~"
        or len(name.encode()) > _LONGEST_NAME
        or "\n" in name
    ):
        why = "a run's folder has it (folder: says where)"
        raise UserError(f"name: {name!r} is not a plain name; {why}")
    if config.trainer.sharding != "none" and not task.shards:
        able = ", ".join(name for name, other in tasks.items() if other.shards)
        raise UserError(
            f"trainer.sharding: {config.trainer.sharding} is not for task {task.name} (but for {able})"
        )
    task.check(config)
    return config


def _bases(config: Path) -> list[Path]:
    """Where a relative path of a configuration is looked for: beside the file, beside the folder `configs`
    that it lies in, in the working folder, and beside what ships."""
    above = [p.parent for p in config.resolve().parents if p.name == "configs"]
    return [config.parent, *above[:1], Path(), shipped("checkpoints").parent]


def _find_places(options: Any, bases: Sequence[Path], complete: bool, begins: bool, prefix: str = "") -> None:
    """Puts the place of every file and folder that an option names, where that is not the working folder."""
    for spec in fields(options):
        value, key = getattr(options, spec.name), f"{prefix}{spec.name}"
        if is_dataclass(value):
            _find_places(value, bases, complete, begins, f"{key}.")
        elif spec.metadata.get("place") and isinstance(value, str):
            needed = complete and (begins or not spec.metadata["begin"])
            there = _place(key, expanduser(value), bases, spec.metadata["hub"], needed)
            setattr(options, spec.name, there)


def _place(key: str, value: str, bases: Sequence[Path], hub: bool, complete: bool) -> str:
    """The path from the working folder; UserError if it must be there, is nowhere, and can be no hub id."""
    for base in bases:
        if (base / value).exists():
            return value if Path(value).exists() and (base / value).samefile(value) else str(base / value)
    # checkpoints/x with x misspelt is not meant for the hub
    if not complete or (
        hub and _HUB_ID.fullmatch(value) and not any((base / value).parent.is_dir() for base in bases)
    ):
        return value
    places = " and ".join(dict.fromkeys(str(base.resolve()) for base in bases))
    where = "" if Path(value).is_absolute() else f" (looked in {places})"
    what = "folder, nor a hub id such as google/ddpm-cifar10-32" if hub else "file or folder"
    raise UserError(f"{key}: {value} is not a {what}{where}{_made_by(value)}")


def _made_by(value: str) -> str:
    """The shipped configuration whose run leaves such a product, as runs/teacher_solids/teacher."""
    home, run = shipped("configs"), Path(value).parent.name
    for path in sorted(home.rglob("*.yaml")):
        if run and re.search(rf"(?m)^name: {re.escape(run)}$", path.read_text()):
            return f"; python train.py --config configs/{path.relative_to(home)} makes it"
    return ""
