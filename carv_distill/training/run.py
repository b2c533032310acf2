"""From a configuration to a run: module, callbacks, trainer, fit."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from carv_distill.carv import AdaptiveProposal, NoiseLevelSampler, Proposal
from carv_distill.data import LabelledImages, load_images
from carv_distill.diffusion import Teacher, VPSchedule, load_teacher
from carv_distill.diffusion.pretrain import PretrainModule, build_teacher
from carv_distill.dmd import DMDModule
from carv_distill.errors import UserError
from carv_distill.evaluation.features import DigitsFeatures, FeatureExtractor, InceptionFeatures
from carv_distill.evaluation.report import Reference
from carv_distill.files import write_json

from .callbacks import Export, ProgressLine, StepLog, StopOnNonFinite
from .checkpoint import AtomicCheckpointIO, Checkpoints, newest_checkpoint
from .config import DMDConfig, EstimatorOptions, FIDOptions, RunConfig, TeacherConfig, TrainerOptions
from .console import is_main_process
from .folder import check_world_size, folder_to_resume, new_folder, write_origin
from .metrics import MetricsLogger, read_metrics
from .traces import FIDTrace, TraceFigure, VarianceTrace

log = logging.getLogger(__name__)

DIGITS_FEATURES = "checkpoints/digits-features"


def execute(config: RunConfig, resume: bool = False) -> Path:
    """Trains what the configuration describes and returns the run's folder.

    Everything that can be wrong with the input is found before the folder is made.

    Raises:
        UserError: input that does not fit, nothing to resume, a non-finite loss, a full disk.
    """
    device = resolve_device(config.trainer)
    data = load_images(config.data.name)
    module = build_module(config, data)
    trace = FIDTools.load(config.fid, data, device) if config.fid.every else None
    checkpoint = None
    if resume:
        folder = folder_to_resume(config)
        checkpoint = newest_checkpoint(folder / "checkpoints")
        if checkpoint is None:
            raise UserError(f"--resume: {folder / 'checkpoints'} holds no checkpoint that can be read")
        log.info("resuming %s from %s, step %d", folder, checkpoint[0].name, checkpoint[1])
        if checkpoint[1] >= config.trainer.max_steps:
            log.info("it has all of its %d steps already", config.trainer.max_steps)
    else:
        folder = _make_folder(config)
        log.info("run folder: %s", folder)
    step = checkpoint[1] if checkpoint else 0
    trainer = build_trainer(config, folder, _callbacks(config, folder, data, trace), step)
    if checkpoint:
        check_world_size(folder, trainer.world_size)
    if trainer.is_global_zero:
        write_origin(folder, config, str(trainer.strategy.root_device), trainer.world_size)
    trainer.fit(module, ckpt_path=checkpoint[0] if checkpoint else None, weights_only=True)
    if trainer.is_global_zero:
        write_json(folder / "summary.json", summary(folder))
    return folder


def build_module(config: RunConfig, data: LabelledImages) -> LightningModule:
    """The LightningModule of the task.

    Raises:
        UserError: the teacher is missing, damaged, or does not fit the data.
    """
    spec = data.spec
    match config:
        case DMDConfig():
            teacher = load_teacher(config.teacher.path)
            check_fit(teacher, data, config.teacher.path)
            return DMDModule(
                teacher,
                build_sampler(config.estimator, teacher),
                config.estimator.upstream,
                config.estimator.draws,
                config.dmd,
                spec.classes,
                config.seed,
                config.estimator.chunk,
                config.teacher.guidance,
                build_adaptive(config.estimator),
            )
        case TeacherConfig():
            seed_everything(config.seed, verbose=False)  # initial weights
            untrained = build_teacher(config.teacher, spec.channels, spec.size, spec.classes)
            return PretrainModule(
                untrained,
                data.images,
                data.labels,
                config.teacher,
                config.trainer.max_steps,
                config.seed,
                config.fid.sampler_steps,
            )
    raise UserError(f"task: {config.task!r} is not known here")


def build_sampler(options: EstimatorOptions, teacher: Teacher) -> NoiseLevelSampler:
    """The configured sampler; with discrete timesteps, a proposal has one bin for each.

    Raises:
        UserError: weights that are no density, or not one for each timestep.
    """
    schedule = teacher.schedule
    timesteps = schedule.timesteps if isinstance(schedule, VPSchedule) else None
    if options.proposal == "weights":
        if timesteps and len(options.weights) != timesteps:
            raise UserError(
                f"estimator.weights: found {len(options.weights)}; the teacher has {timesteps} timesteps and "
                "needs one for each"
            )
        try:
            proposal = Proposal.from_weights(torch.tensor(options.weights), options.defensive)
        except ValueError as error:
            raise UserError(f"estimator.weights: {error}") from error
    else:
        proposal = Proposal.uniform(timesteps or 1000)
    return NoiseLevelSampler(proposal, options.strategy, options.noise)


def build_adaptive(options: EstimatorOptions) -> AdaptiveProposal | None:
    """What learns the proposal, where one is to be learned."""
    if options.proposal != "adaptive":
        return None
    if options.defensive == 0:
        raise UserError("estimator.defensive: an adaptive proposal needs a value above 0, found 0")
    if options.statistic == "neyman" and options.draws < 2:
        raise UserError(
            "estimator.statistic: neyman compares draws of one sample; estimator.draws must be at least 2, "
            f"found {options.draws}"
        )
    # A past update's residuals count half after 35 updates: the student moves on.
    return AdaptiveProposal(options.bins, options.defensive, options.statistic, 0.98, options.refresh)


def check_fit(teacher: Teacher, data: LabelledImages, path: str) -> None:
    """Teacher and data must have one image shape, and the labels must be known to the teacher."""
    spec = data.spec
    if (teacher.channels, teacher.size) != (spec.channels, spec.size):
        raise UserError(
            f"teacher.path: {path} makes {teacher.channels}×{teacher.size}×{teacher.size} images, but data "
            f"{spec.name} has {spec.channels}×{spec.size}×{spec.size}"
        )
    if teacher.labels not in (0, spec.classes, spec.classes + 1):
        raise UserError(
            f"teacher.path: {path} has {teacher.labels} class embeddings, but data {spec.name} has "
            f"{spec.classes} classes (allowed: 0, {spec.classes}, or {spec.classes + 1} with a null label)"
        )


@dataclass
class FIDTools:
    """What an FID needs besides the generator."""

    extractor: FeatureExtractor
    reference: Reference

    @classmethod
    def load(cls, options: FIDOptions, data: LabelledImages, device: str) -> FIDTools:
        """The configured features, and the reference: a file of statistics, or the data set itself.

        Reference and generated images go through the network on one device, in one arithmetic.
        """
        extractor: FeatureExtractor
        if options.features == "inception":
            extractor = InceptionFeatures(options.weights)
        else:
            extractor = DigitsFeatures(options.weights or DIGITS_FEATURES)
        extractor.to(device)
        if options.reference is not None:
            return cls(extractor, Reference.from_file(options.reference, extractor))
        return cls(extractor, Reference.from_images(data.spec.name, data.to_uint8(), extractor))


def build_trainer(
    config: RunConfig, folder: Path, callbacks: list[Callback], resume_step: int = 0
) -> Trainer:
    """Lightning's trainer for one run, alone or under torchrun or SLURM."""
    options = config.trainer
    device = resolve_device(options)
    devices, nodes = _launched(options)
    return Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        precision=precision_of(options, device),  # type: ignore[arg-type]
        max_steps=options.max_steps,
        max_epochs=-1,
        enable_checkpointing=False,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        logger=[
            MetricsLogger(folder / "metrics.csv", resume_step),
            TensorBoardLogger(folder, name="tensorboard", version="", purge_step=resume_step + 1),
        ],
        log_every_n_steps=options.log_every,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def precision_of(options: TrainerOptions, device: str) -> str:
    """The configured precision; auto is bf16-mixed on CUDA and 32-true on a CPU."""
    if options.precision != "auto":
        return options.precision
    return "bf16-mixed" if device == "cuda" else "32-true"


def resolve_device(options: TrainerOptions) -> str:
    """cuda or cpu.

    Raises:
        UserError: a GPU is asked for that is not there.
    """
    if options.accelerator == "cpu" or (options.accelerator == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise UserError("trainer.accelerator: cuda, but there is no CUDA device here (allowed: auto, cpu)")
    present, (wanted, _) = torch.cuda.device_count(), _launched(options)
    if wanted > present:
        raise UserError(f"trainer.devices: {wanted} GPUs are asked for, {present} are here")
    return "cuda"


def summary(folder: Path) -> dict[str, float | dict[str, float]]:
    """The final numbers: the last value of every metric, and the lowest FID with its step."""
    rows = read_metrics(folder / "metrics.csv")
    last: dict[str, float] = {}
    for row in rows:
        last |= row
    result: dict[str, float | dict[str, float]] = {"last": last}
    if measured := [r for r in rows if "fid/fid" in r and r["step"] > 0]:
        best = min(measured, key=lambda r: r["fid/fid"])
        result["best_fid"] = {"fid": best["fid/fid"], "step": best["step"]}
    return result


def _callbacks(
    config: RunConfig, folder: Path, data: LabelledImages, trace: FIDTools | None
) -> list[Callback]:
    log_every, fid_every = config.trainer.log_every, config.fid.every
    variance = config.variance if isinstance(config, DMDConfig) else None
    variance_every = variance.every if variance else 0
    callbacks: list[Callback] = [
        StopOnNonFinite(log_every, config.checkpoint.every, fid_every, variance_every),
        StepLog(log_every),
    ]
    if variance and variance.every:
        callbacks.append(VarianceTrace(variance.every, variance.pairs))
    if trace:
        tools = (data.spec, trace.extractor, trace.reference, folder / "samples")
        callbacks.append(FIDTrace(fid_every, config.fid.images, *tools))
    if isinstance(config, DMDConfig):
        figure = folder / "figures" / "variance_vs_fid.png"
        callbacks.append(TraceFigure(folder / "metrics.csv", figure, (fid_every, variance_every)))
    name = "student" if isinstance(config, DMDConfig) else "teacher"
    shown = {"fid": "FID {:.2f}", "variance/carv": "variance {:.3g}", "variance/iid": "(R,1) iid {:.3g}"}
    return [
        *callbacks,
        ProgressLine(shown, log_every),
        Checkpoints(folder / "checkpoints", config.checkpoint, fid_every),
        Export(folder / name, config.checkpoint.every),
    ]


def _make_folder(config: RunConfig) -> Path:
    """A new folder on rank 0; the other ranks write nothing and need only its name."""
    if not is_main_process():
        return Path(config.folder, config.name)
    folder = new_folder(config)
    if folder.name != config.name:
        log.warning("a run named %s exists; this one is %s", config.name, folder.name)
        config.name = folder.name
    return folder


def _launched(options: TrainerOptions) -> tuple[int, int]:
    """(processes per node, nodes): as torchrun or srun launched us, else as the configuration says."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        return local, world // local
    if "SLURM_NTASKS_PER_NODE" in os.environ and "SLURM_PROCID" in os.environ:  # inside srun
        return int(os.environ["SLURM_NTASKS_PER_NODE"]), int(os.environ["SLURM_NNODES"])
    return options.devices, options.num_nodes
