"""Configuration: dataclasses, filled from one YAML and `key=value` overrides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from carv_distill.carv import NOISES, STATISTICS, STRATEGIES
from carv_distill.data.images import NAMES as DATA_SETS
from carv_distill.diffusion.pretrain import PretrainOptions
from carv_distill.dmd import DMDOptions
from carv_distill.errors import UserError
from carv_distill.options import at_least, between, check_limits, nearest, one_of
from carv_distill.sds import CameraOptions, SceneOptions, SDSOptions
from carv_distill.text_teacher import TextTeacherOptions

PROPOSALS = ("uniform", "weights", "weighting", "adaptive")
PRECISIONS = ("auto", "32-true", "64-true", "bf16-mixed")


@dataclass
class DataOptions:
    """The real images: FID's reference, and a teacher's training set."""

    name: str = one_of(DATA_SETS, "digits")


@dataclass
class TeacherSource:
    """Where the frozen teacher comes from."""

    path: str = MISSING
    """A diffusers folder or hub id."""
    guidance: float = at_least(0, 1.0)
    """Classifier-free guidance scale; 1 is none."""


@dataclass
class LatentSource:
    """Where the frozen text-to-image teacher comes from."""

    path: str = MISSING
    """A StableDiffusionPipeline folder or hub id."""


@dataclass
class EstimatorOptions:
    """The CARV estimator of the gradient."""

    upstream: int = at_least(1, 32)
    """R, student samples or renders per update and process."""
    draws: int = at_least(1, 4)
    """K, re-noisings of each."""
    strategy: str = one_of(STRATEGIES, "stratified")
    proposal: str = one_of(PROPOSALS, "uniform")
    """weighting: q ∝ w(t), for task sds."""
    weights: list[float] = field(default_factory=list)
    """With `proposal: weights`: relative weight of each of N equal bins of u."""
    statistic: str = one_of(STATISTICS, "second_moment")
    """With `proposal: adaptive`, what draws teach: second_moment for iid levels, neyman for strata, K ≥ 2."""
    bins: int = at_least(1, 32)
    """Bins of an adaptive proposal."""
    refresh: int = at_least(1, 20)
    """Student updates between two adaptive proposals."""
    defensive: float = between(0, 1, 0.1)
    """α of the mixture (1−α) q + α p; bounds the importance weights by 1/α."""
    noise: str = one_of(NOISES, "iid")
    chunk: int | None = at_least(1, None)
    """Re-noisings per call of the frozen networks; empty for all at once."""


@dataclass
class TrainerOptions:
    """Lightning's trainer."""

    max_steps: int = at_least(1, 600)
    """Student updates (dmd) or optimiser steps (teacher)."""
    precision: str = one_of(PRECISIONS, "auto")
    """auto: bf16-mixed on CUDA, 32-true on a CPU."""
    accelerator: str = one_of(("auto", "cpu", "cuda"), "auto")
    devices: int = at_least(1, 1)
    """Processes per node; under torchrun, what torchrun says."""
    num_nodes: int = at_least(1, 1)
    log_every: int = at_least(1, 10)


@dataclass
class VarianceOptions:
    """The variance trace."""

    every: int = at_least(0, 100)
    """Student updates between two measurements; 0 turns it off."""
    pairs: int = at_least(3, 8)
    """Pairs of gradients that share their upstream draw, for each of the two samplers."""


@dataclass
class FIDOptions:
    """The FID trace."""

    every: int = at_least(0, 50)
    """Updates between two measurements; 0 turns it off."""
    images: int = at_least(4, 1797)
    features: str = one_of(("digits", "inception"), "digits")
    weights: str | None = None
    """Folder of the digits classifier (empty: the shipped one), or file of the Inception weights (empty:
    torch hub's folder, if the file is there)."""
    reference: str | None = None
    """Statistics (.npz with mu, sigma); empty: the data set itself."""
    sampler_steps: int = at_least(2, 18)
    """Heun steps when a teacher is sampled."""


@dataclass
class CheckpointOptions:
    """Checkpoints in the run's folder."""

    every: int = at_least(1, 100)
    keep_newest: int = at_least(1, 2)
    keep_best: int = at_least(0, 1)
    """Checkpoints kept for the lowest FID."""


@dataclass
class ShapesOptions:
    """The pictures that a text-to-image teacher learns from."""

    size: int = at_least(8, 32)
    """Pixels along one side."""
    views: int = at_least(1, 66)
    """Random cameras for each of the 56 pairs of colour and solid."""


@dataclass
class PreviewOptions:
    """Pictures while it trains."""

    every: int = at_least(0, 500)
    """Steps between two previews; 0 turns them off."""


@dataclass
class RunConfig:
    """What every task has."""

    task: str = MISSING
    name: str = MISSING
    seed: int = at_least(0, 0)
    folder: str = "runs"
    """Where run folders are made."""
    trainer: TrainerOptions = field(default_factory=TrainerOptions)
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)


@dataclass
class ImageConfig(RunConfig):
    """A task on a set of real images, followed by FID."""

    data: DataOptions = field(default_factory=DataOptions)
    fid: FIDOptions = field(default_factory=FIDOptions)


@dataclass
class DMDConfig(ImageConfig):
    """One-step distillation."""

    teacher: TeacherSource = field(default_factory=TeacherSource)
    estimator: EstimatorOptions = field(default_factory=EstimatorOptions)
    dmd: DMDOptions = field(default_factory=DMDOptions)
    variance: VarianceOptions = field(default_factory=VarianceOptions)


@dataclass
class TeacherConfig(ImageConfig):
    """Training a teacher."""

    teacher: PretrainOptions = field(default_factory=PretrainOptions)


@dataclass
class TextTeacherConfig(RunConfig):
    """Training a miniature Stable Diffusion."""

    data: ShapesOptions = field(default_factory=ShapesOptions)
    teacher: TextTeacherOptions = field(default_factory=TextTeacherOptions)
    preview: PreviewOptions = field(default_factory=PreviewOptions)


@dataclass
class ClipOptions:
    """The trace of the CLIP score."""

    every: int = at_least(0, 50)
    """Steps between two measurements; 0 turns it off."""
    model: str = "checkpoints/shapes-teacher/clip"
    """Folder or hub id of a CLIPModel with its processor."""
    views: int = at_least(2, 12)
    """Cameras once around the object."""


@dataclass
class ExportOptions:
    """What is made of the finished object."""

    frames: int = at_least(8, 60)
    """Of the turntable."""
    size: int = at_least(16, 128)
    """Its pixels along one side."""
    mesh: int = at_least(8, 96)
    """Points of the mesh's grid along one side."""


@dataclass
class SDSConfig(RunConfig):
    """Text-to-3D by score distillation."""

    teacher: LatentSource = field(default_factory=LatentSource)
    estimator: EstimatorOptions = field(default_factory=EstimatorOptions)
    scene: SceneOptions = field(default_factory=SceneOptions)
    camera: CameraOptions = field(default_factory=CameraOptions)
    sds: SDSOptions = field(default_factory=SDSOptions)
    variance: VarianceOptions = field(default_factory=VarianceOptions)
    clip: ClipOptions = field(default_factory=ClipOptions)
    preview: PreviewOptions = field(default_factory=PreviewOptions)
    export: ExportOptions = field(default_factory=ExportOptions)


SCHEMAS: dict[str, type[RunConfig]] = {
    "dmd": DMDConfig,
    "teacher": TeacherConfig,
    "text_teacher": TextTeacherConfig,
    "sds": SDSConfig,
}
Config = TypeVar("Config", bound=RunConfig)


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
    return f"{error.full_key or error.key}: {message}"
