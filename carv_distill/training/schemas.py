"""What a configuration may say: one dataclass per section, one per task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from omegaconf import MISSING

from carv_distill.carv import NOISES, STATISTICS, STRATEGIES
from carv_distill.options import at_least, between, one_of
from carv_distill.options.data import DataOptions
from carv_distill.options.dmd import DMDOptions
from carv_distill.options.pretrain import PretrainOptions
from carv_distill.options.sds import CameraOptions, SceneOptions, SDSOptions
from carv_distill.options.text_teacher import TextTeacherOptions

PROPOSALS = ("uniform", "weights", "weighting", "adaptive")
PRECISIONS = ("auto", "32-true", "64-true", "bf16-mixed")


@dataclass
class TeacherSource:
    """Where the frozen teacher comes from."""

    path: str = MISSING
    """A diffusers folder or hub id."""
    guidance: float = at_least(0, 1.0)
    """Classifier-free guidance scale; 1 is none."""
    precision: str = one_of(("float32", "bfloat16"), "float32")
    """Of the frozen weights; the last convolution stays in float32."""


@dataclass
class TextTeacherSource:
    """Where the frozen text-to-image teacher comes from."""

    path: str = MISSING
    """Folder or hub id of a StableDiffusionPipeline or an IFPipeline."""


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
    patience: float = at_least(1, 45.0)
    """Seconds without a sign of life after which a process of the run counts as lost."""


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
    features: str = one_of(("digits", "inception", "clip"), "digits")
    weights: str | None = None
    """Folder of the digits classifier (empty: the shipped one); file of the Inception weights (empty: torch
    hub's folder, if the file is there); or folder or hub id of a CLIP model (empty: the shipped one)."""
    reference: str | None = None
    """Statistics (.npz with mu, sigma); empty: the data set itself."""
    labels: str = one_of(("turn", "random"), "turn")
    """Label of seed i: i mod classes in turn, or drawn by the seed's own generator as EDM does. In turn, all
    classes are equally many and FID is steadier; KID, whose estimate takes images to be independent, comes
    out too low."""
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

    teacher: TextTeacherSource = field(default_factory=TextTeacherSource)
    estimator: EstimatorOptions = field(default_factory=EstimatorOptions)
    scene: SceneOptions = field(default_factory=SceneOptions)
    camera: CameraOptions = field(default_factory=CameraOptions)
    sds: SDSOptions = field(default_factory=SDSOptions)
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
