"""A configuration, filled from one YAML and `key=value` overrides, checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from carv_distill.distillation.options import DMDConfig
from carv_distill.errors import UserError
from carv_distill.options import check_limits, nearest
from carv_distill.tasks import SCHEMAS
from carv_distill.text_to_3d.options import SDSConfig

from .options import PROPOSALS, EstimatorOptions, RunConfig


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a YAML, applies `key=value` overrides, checks types and limits.

    Raises:
        UserError: a missing or malformed file, an unknown key (with the nearest one), a wrong type, a value
            outside its limits, an override without `=`.
    """
    given = _read_yaml(Path(path))
    for override in overrides:
        if "=" not in override:
            raise UserError(f"override {override!r} has no '='; write key=value, as in estimator.draws=16")
        given = _merge_override(given, override)
    return _build(given, str(path))


def config_from_dict(values: dict[str, Any], origin: str) -> RunConfig:
    """The same checks for values already read; `origin` names them in messages."""
    return _build(OmegaConf.create(values), origin)


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Every value resolved, as plain Python."""
    container = OmegaConf.to_container(OmegaConf.structured(config), resolve=True)
    assert isinstance(container, dict)
    return {str(k): v for k, v in container.items()}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of sections as one dictionary, keys joined by dots."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _build(given: DictConfig, origin: str) -> RunConfig:
    task = None if OmegaConf.is_missing(given, "task") else given.get("task")
    if task not in SCHEMAS:
        raise UserError(f"task: {task!r} is not one of {', '.join(SCHEMAS)} (in {origin})")
    known = sorted(_keys(SCHEMAS[task]))
    for spec in fields(SCHEMAS[task]):
        section = None if OmegaConf.is_missing(given, spec.name) else given.get(spec.name, {})
        if any(k.startswith(f"{spec.name}.") for k in known) and not isinstance(
            section, Mapping | DictConfig
        ):
            keys = ", ".join(k for k in known if k.startswith(f"{spec.name}."))
            raise UserError(f"{spec.name}: {section!r} is not a section in {origin}; its keys are {keys}")
    for key in _given_keys(given):
        if key not in known:
            raise UserError(
                f"unknown key {key}{nearest(key, known)} in {origin}; known are {_siblings(key, known)}"
            )
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SCHEMAS[task]), given))
    except OmegaConfBaseException as error:
        raise UserError(_explain(error)) from error
    assert isinstance(config, RunConfig)
    check_limits(config)
    if Path(config.name).name != config.name or config.name in ("", "."):
        raise UserError(
            f"name: {config.name!r} is not a plain name; a run's folder has it (folder: says where)"
        )
    if isinstance(config, DMDConfig | SDSConfig):
        _check_proposal(config.task, config.estimator)
    return config


def _check_proposal(task: str, estimator: EstimatorOptions) -> None:
    refused = {"dmd": "weighting", "sds": "weights"}[task]
    if estimator.proposal == refused:
        allowed = ", ".join(p for p in PROPOSALS if p != refused)
        raise UserError(f"estimator.proposal: {refused} is not for task {task} (allowed: {allowed})")
    if (estimator.proposal == "weights") != bool(estimator.weights):
        raise UserError(
            f"estimator.weights: {len(estimator.weights)} weights with estimator.proposal: "
            f"{estimator.proposal}; weights go with proposal: weights, and only with it"
        )


def _read_yaml(path: Path) -> DictConfig:
    if not path.is_file():
        raise UserError(f"--config: {path} is not a file")
    try:
        given = OmegaConf.load(path)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not a valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(given, DictConfig):
        raise UserError(f"{path}: a configuration is a mapping of keys to values")
    return given


def _merge_override(given: DictConfig, override: str) -> DictConfig:
    try:
        merged = OmegaConf.merge(given, OmegaConf.from_dotlist([override]))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(f"override {override!r}: {' '.join(str(error).split())}") from error
    assert isinstance(merged, DictConfig)
    return merged


def _keys(schema: Any, prefix: str = "") -> Iterator[str]:
    """All keys of a schema, sections included."""
    default = schema() if isinstance(schema, type) else schema
    for spec in fields(default):
        yield f"{prefix}{spec.name}"
        if is_dataclass(value := getattr(default, spec.name)):
            yield from _keys(value, f"{prefix}{spec.name}.")


def _given_keys(given: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in given:
        yield f"{prefix}{name}"
        node = None if OmegaConf.is_missing(given, name) else given._get_node(name)
        if isinstance(node, DictConfig) and not node._is_none():
            yield from _given_keys(node, f"{prefix}{name}.")


def _siblings(key: str, known: list[str]) -> str:
    section = key.rpartition(".")[0]
    return ", ".join(k for k in known if k.rpartition(".")[0] == section) or ", ".join(
        k for k in known if "." not in k
    )


def _explain(error: OmegaConfBaseException) -> str:
    """One line with the full key, from OmegaConf's own report."""
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: it has no value yet; give one, as {error.full_key}=…"
    message = str(error.msg or error).split("\n")[0]
    if "Incompatible value 'None'" in message:
        return f"{error.full_key}: it is empty; give a value, as {error.full_key}=…"
    return f"{error.full_key or error.key}: {message}"
