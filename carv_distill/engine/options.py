"""What a configuration may say: one dataclass per section, one per task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from omegaconf import MISSING

from carv_distill.carv import NOISES, STATISTICS, STRATEGIES
from carv_distill.data.options import DataOptions
from carv_distill.evaluation.options import FIDOptions
from carv_distill.options import at_least, between, one_of

PROPOSALS = ("uniform", "weights", "weighting", "adaptive")
PRECISIONS = ("auto", "32-true", "64-true", "bf16-mixed")


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
class CheckpointOptions:
    """Checkpoints in the run's folder."""

    every: int = at_least(1, 100)
    keep_newest: int = at_least(1, 2)
    keep_best: int = at_least(0, 1)
    """Checkpoints kept for the lowest FID."""


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


Config = TypeVar("Config", bound=RunConfig)
