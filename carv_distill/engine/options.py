"""Sections of a configuration that several tasks share."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from carv_distill.carv.couplings import NOISES
from carv_distill.carv.strategies import STATISTICS, STRATEGIES
from carv_distill.data.options import DataOptions
from carv_distill.errors import UserError
from carv_distill.evaluation.options import FIDOptions
from carv_distill.options import at_least, between, one_of, section, seed_option, some_of

PROPOSALS = ("uniform", "weights", "weighting", "adaptive")
SHARDINGS = ("none", "fsdp")
PRECISIONS = ("auto", "32-true", "64-true", "bf16-mixed")
MATMULS = ("highest", "high")
LOGGERS = ("tensorboard", "wandb", "mlflow")


@dataclass
class EstimatorOptions:
    """The CARV estimator of the gradient."""

    upstream: int = at_least(1, 32)
    """R, student samples or renders per update and process."""
    draws: int = at_least(1, 4)
    """K, re-noisings of each."""
    strategy: str = one_of(STRATEGIES, "stratified")
    """How the noise levels of a sample, or of the batch, are spread."""
    proposal: str = one_of(PROPOSALS, "uniform")
    """Density q of the noise levels. weights: task dmd alone; weighting: q ∝ w(t), task sds alone."""
    weights: list[float] = field(default_factory=list)
    """With `proposal: weights`: relative weight of each of N equal bins of the teacher's schedule, of which
    dmd.t_min and dmd.t_max take a part; N is the number of its timesteps, where it has them."""
    statistic: str = one_of(STATISTICS, "second_moment")
    """With `proposal: adaptive`, what draws teach: second_moment for iid levels, neyman for strata, K ≥ 2;
    with coupled noises (`noise`) neyman counts what the coupling removes, and may be worse than none."""
    bins: int = at_least(1, 32)
    """Bins of an adaptive proposal."""
    refresh: int = at_least(1, 20)
    """Student updates between two adaptive proposals."""
    defensive: float = between(0, 1, 0.1)
    """α of the mixture (1−α) q + α p; bounds the importance weights by 1/α."""
    noise: str = one_of(NOISES, "iid")
    """Coupling of the noises of a sample's draws."""
    chunk: int | None = at_least(1, None)
    """Re-noisings per call of the frozen networks; empty for all at once."""

    def check(self, task: str, refused: str) -> None:
        """What the fields say together; `refused` is the proposal that is another task's.

        Raises:
            UserError: naming what does not go together.
        """
        if self.proposal == refused:
            allowed = ", ".join(p for p in PROPOSALS if p != refused)
            raise UserError(f"estimator.proposal: {refused} is not for task {task} (allowed: {allowed})")
        if (self.proposal == "weights") != bool(self.weights):
            raise UserError(
                f"estimator.weights: {len(self.weights)} weights with estimator.proposal: {self.proposal}; "
                "weights go with proposal: weights, and only with it"
            )
        if not STRATEGIES[self.strategy].allows(self.draws):
            raise UserError(
                f"estimator.draws: {self.draws} is odd, and estimator.strategy: {self.strategy} needs an "
                "even number"
            )
        if self.proposal == "adaptive":
            self._check_adaptive()

    def _check_adaptive(self) -> None:
        if self.defensive == 0:
            raise UserError("estimator.defensive: an adaptive proposal needs a value above 0, found 0")
        if self.statistic == "neyman" and self.draws < 2:
            raise UserError(
                "estimator.statistic: neyman compares draws of one sample; estimator.draws must be at least "
                f"2, found {self.draws}"
            )
        if self.statistic == "neyman" and self.chunk == 1:
            raise UserError(
                "estimator.chunk: neyman compares draws of one network call; chunk must be at least 2, "
                "found 1"
            )


@dataclass
class TrainerOptions:
    """Lightning's trainer."""

    max_steps: int = at_least(1, 600, resume=True)
    """Student updates (dmd) or optimiser steps. A run whose rates or noise levels fall over them keeps its
    number."""
    precision: str = one_of(PRECISIONS, "auto")
    """auto: bf16-mixed on CUDA, 32-true on a CPU."""
    float32_matmul: str = one_of(MATMULS, "highest")
    """Of matrix products in float32 (torch.set_float32_matmul_precision). highest: all 24 bits; high: TF32 on
    CUDA from Ampere on, 11 bits of each factor, several times faster. Convolutions have TF32 either way."""
    accelerator: str = one_of(("auto", "cpu", "cuda"), "auto", resume=True)
    devices: int = at_least(1, 1, resume=True)
    """Processes per node; under torchrun, what torchrun says."""
    num_nodes: int = at_least(1, 1, resume=True)
    threads: int | None = at_least(1, None, resume=True)
    """Of a CPU, for one process; empty: as OMP_NUM_THREADS says, or one for each core. A run that goes on
    keeps its number, as sums depend on it in their last bits."""
    sharding: str = one_of(SHARDINGS, "none", resume=True)
    """none: every process has whole networks; fsdp: each has a part of every parameter, gradient, moment and
    average (FSDP2), for networks that one device does not hold. Task dmd, two processes at least; a run may
    change it when it goes on."""
    log_every: int = at_least(1, 10, resume=True)
    """Updates from one row of losses to the next; the last update has one whatever its number."""
    loggers: list[str] = some_of(LOGGERS, "tensorboard", resume=True)
    """Beside metrics.csv, for metrics, pictures and results. wandb: offline in the run's wandb/, unless
    WANDB_MODE=online is set; mlflow: in mlflow.db beside the runs, unless MLFLOW_TRACKING_URI names a store;
    the extras of these names bring them. [] for none."""
    patience: float = at_least(1, 45.0, resume=True)
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
    """Pictures of what is trained, in the run's `samples/`."""

    every: int = at_least(0, 500)
    """Steps between two of them; 0 turns them off. Where images are generated, the start and the last step
    have one too."""


@dataclass
class RunConfig:
    """What every task has."""

    task: str = MISSING
    name: str = MISSING
    """Of the run's folder."""
    seed: int = seed_option(0)
    folder: str = field(default="runs", metadata={"resume": True})
    """Where run folders are made; ~ is the home folder."""
    trainer: TrainerOptions = field(default_factory=TrainerOptions)
    checkpoint: CheckpointOptions = section(CheckpointOptions, resume=True)


@dataclass
class ImageConfig(RunConfig):
    """A task on a set of real images, followed by FID."""

    data: DataOptions = field(default_factory=DataOptions)
    fid: FIDOptions = section(FIDOptions, resume=True)
    preview: PreviewOptions = section(PreviewOptions, resume=True)
