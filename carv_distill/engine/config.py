"""A configuration, filled from one YAML and `key=value` overrides, checked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from carv_distill.errors import UserError
from carv_distill.files import shipped
from carv_distill.options import check_limits, leaves, nearest

from .options import RunConfig
from .task import Task

Tasks = Mapping[str, Task]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_config(
    tasks: Tasks, config: str | Path, overrides: Sequence[str] = (), *, complete: bool = False
) -> RunConfig:
    """Reads a YAML, applies `key=value` overrides, checks types, limits, and what goes together.

    Args:
        config: as for :func:`find_config`.
        complete: files and folders that it names must be there.

    Raises:
        UserError: an override without `=`.
    """
    path = find_config(config)
    given = read_yaml(path)
    for override in overrides:
        if "=" not in override:
            raise UserError(f"override {override!r} has no '='; write key=value, as in estimator.draws=16")
        given = _merge_override(given, override)
    filled = _build(tasks, given, str(path))
    _find_places(filled, _bases(path), complete)
    return filled


def config_from_dict(tasks: Tasks, values: dict[str, Any], source: str) -> RunConfig:
    """The same checks for values already read; `source` names them in messages."""
    return _build(tasks, OmegaConf.create(values), source)


def find_config(config: str | Path) -> Path:
    """The file itself, or the shipped configuration of that name, as dmd_carv or cifar10/dmd_carv; UserError
    if it is neither."""
    path = Path(config)
    if path.is_file():
        return path
    name = path if path.suffix == ".yaml" else path.with_name(f"{path.name}.yaml")
    for candidate in (shipped("configs") / name, shipped("configs").parent / name):
        if candidate.is_file():
            return candidate
    home = shipped("configs")
    known = sorted(str(p.relative_to(home).with_suffix("")) for p in home.rglob("*.yaml"))
    raise UserError(
        f"--config: {config} is not a file, nor the name of a shipped configuration: {', '.join(known)}"
    )


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Every value resolved, as plain Python."""
    container = OmegaConf.to_container(OmegaConf.structured(config), resolve=True)
    assert isinstance(container, dict)
    return {str(k): v for k, v in container.items()}


def flat(config: RunConfig) -> dict[str, Any]:
    """Every value under its key with dots."""
    return {key: value for key, _, value, _ in leaves(config)}


def _build(tasks: Tasks, given: DictConfig, source: str) -> RunConfig:
    name = None if OmegaConf.is_missing(given, "task") else given.get("task")
    if not isinstance(name, str) or name not in tasks:
        raise UserError(f"task: {name!r} is not one of {', '.join(tasks)} (in {source})")
    task = tasks[name]
    known = sorted(_keys(task.config))
    for spec in fields(task.config):
        value = None if OmegaConf.is_missing(given, spec.name) else given.get(spec.name, {})
        keys = [k for k in known if k.startswith(f"{spec.name}.")]
        if keys and not isinstance(value, Mapping | DictConfig):
            listed = ", ".join(keys)
            raise UserError(f"{spec.name}: {value!r} is not a section in {source}; its keys are {listed}")
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(task.config), given))
    except ConfigKeyError as error:
        key = str(error.full_key)
        hint = f"{nearest(key, known)} in {source}; known are {_siblings(key, known)}"
        raise UserError(f"unknown key {key}{hint}") from error
    except OmegaConfBaseException as error:
        raise UserError(_explain(error)) from error
    assert isinstance(config, RunConfig)
    check_limits(config)
    if Path(config.name).name != config.name or config.name in ("", "."):
        why = "a run's folder has it (folder: says where)"
        raise UserError(f"name: {config.name!r} is not a plain name; {why}")
    task.check(config)
    return config


def _bases(config: Path) -> list[Path]:
    """Where a relative path of a configuration is looked for: beside the file, beside the folder `configs`
    that it lies in, in the working folder, and beside what ships."""
    above = [p.parent for p in config.resolve().parents if p.name == "configs"]
    return [config.parent, *above[:1], Path(), shipped("checkpoints").parent]


def _find_places(options: Any, bases: Sequence[Path], complete: bool, prefix: str = "") -> None:
    """Puts the place of every file and folder that an option names, where that is not the working folder."""
    for spec in fields(options):
        value, key = getattr(options, spec.name), f"{prefix}{spec.name}"
        if is_dataclass(value):
            _find_places(value, bases, complete, f"{key}.")
        elif spec.metadata.get("place") and isinstance(value, str):
            setattr(options, spec.name, _place(key, value, bases, spec.metadata["hub"], complete))


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
    raise UserError(f"{key}: {value} is not a {what}{where}")


def read_yaml(path: Path) -> DictConfig:
    """A mapping of keys to values; UserError for a file that holds something else."""
    try:
        given = OmegaConf.load(path)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not a valid YAML: {_one_line(error)}") from error
    if not isinstance(given, DictConfig):
        raise UserError(f"{path}: a configuration is a mapping of keys to values")
    return given


def _merge_override(given: DictConfig, override: str) -> DictConfig:
    try:
        merged = OmegaConf.merge(given, OmegaConf.from_dotlist([override]))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(f"override {override!r}: {_one_line(error)}") from error
    assert isinstance(merged, DictConfig)
    return merged


def _keys(schema: Any, prefix: str = "") -> Iterator[str]:
    """All keys of a schema, sections included."""
    default = schema() if isinstance(schema, type) else schema
    for spec in fields(default):
        yield f"{prefix}{spec.name}"
        if is_dataclass(value := getattr(default, spec.name)):
            yield from _keys(value, f"{prefix}{spec.name}.")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _siblings(key: str, known: list[str]) -> str:
    parent = key.rpartition(".")[0]
    beside = [k for k in known if k.rpartition(".")[0] == parent]
    return ", ".join(beside or [k for k in known if "." not in k])


def _explain(error: OmegaConfBaseException) -> str:
    """One line with the full key, from OmegaConf's own report."""
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: it has no value yet; give one, as {error.full_key}=…"
    message = str(error.msg or error).split("\n")[0]
    if "Incompatible value 'None'" in message:
        return f"{error.full_key}: it is empty; give a value, as {error.full_key}=…"
    return f"{error.full_key or error.key}: {message}"
