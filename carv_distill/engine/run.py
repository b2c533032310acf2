"""From a configuration to a run: folder, trainer, fit."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment

from carv_distill.errors import UserError
from carv_distill.files import write_json
from carv_distill.tasks import prepare

from .callbacks import Export, ProgressLine, StepLog, StopOnNonFinite
from .checkpoints import AtomicCheckpointIO, Checkpoints, newest_checkpoint
from .config import flat, to_dict
from .console import is_main_process
from .folder import check_shares, folder_to_resume, new_folder, write_origin
from .metrics import MetricsLogger, read_metrics
from .options import RunConfig, TrainerOptions
from .preemption import Preemption
from .task import Task
from .watchdog import Peers, code_digest, lost_message

log = logging.getLogger(__name__)


def execute(config: RunConfig, resume: bool = False, requeue: bool = False) -> Path:
    """Trains what the configuration describes and returns the run's folder.

    Everything that can be wrong with the input is found before the folder is made.

    Args:
        resume: go on from the newest checkpoint that can be read.
        requeue: the same where there is one; else start, in the folder of an attempt that ended before its
            first checkpoint if there was one.

    Raises:
        UserError: input that does not fit, nothing to resume, a non-finite loss, a full disk or device, a
            process of the run that is lost.
        PreemptedError: told to stop; a checkpoint is kept.
    """
    device = resolve_device(config.trainer)
    devices, nodes = launched(config.trainer)
    task = prepare(config, device, devices * nodes)
    folder, checkpoint = _start(config, resume, requeue)
    step = checkpoint[1] if checkpoint else 0
    shares = devices * nodes * task.accumulate
    if checkpoint:
        check_shares(folder, shares)
    if precision_of(config.trainer, device) == "64-true":
        task.module.double()  # before Lightning would: a checkpoint is read into it as it was written
    peers = Peers(_program(config, step), config.trainer.patience)
    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint, task.fid_every)
    preemption = Preemption(checkpoints)
    callbacks = [peers, *_callbacks(config, folder, task, checkpoints), preemption]
    trainer = build_trainer(config, folder, callbacks, step, task.strategy)
    if trainer.is_global_zero:
        write_origin(folder, config, str(trainer.strategy.root_device), trainer.world_size, shares)
    try:
        with preemption.listening(trainer):
            trainer.fit(task.module, ckpt_path=checkpoint[0] if checkpoint else None, weights_only=True)
    except RuntimeError as error:
        if peers.is_lost():
            raise UserError(lost_message(config.trainer.patience)) from error
        if isinstance(error, torch.OutOfMemoryError):
            raise UserError(
                f"out of memory on {trainer.strategy.root_device} at update {trainer.global_step}; a smaller "
                "estimator.upstream (with dmd.global_batch for the same batch), dmd.fake_batch or "
                "teacher.batch takes less"
            ) from error
        raise
    if trainer.is_global_zero:
        write_json(folder / "summary.json", summary(folder))
    return folder


def build_trainer(
    config: RunConfig, folder: Path, callbacks: list[Callback], resume_step: int = 0, strategy: str = "ddp"
) -> Trainer:
    """Lightning's trainer for one run, alone or under torchrun or SLURM; the strategy is for several
    processes."""
    options = config.trainer
    device = resolve_device(options)
    devices, nodes = launched(options)
    plugins: list[Any] = [AtomicCheckpointIO()]
    if "TORCHELASTIC_RUN_ID" not in os.environ and SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # Preemption sees to it, for all schedulers
    return Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=devices,
        num_nodes=nodes,
        strategy=strategy if devices * nodes > 1 else "auto",
        precision=precision_of(options, device),  # type: ignore[arg-type]
        max_steps=options.max_steps,
        max_epochs=-1,
        enable_checkpointing=False,
        callbacks=callbacks,
        plugins=plugins,
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
    present, (wanted, _) = torch.cuda.device_count(), launched(options)
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


def _callbacks(config: RunConfig, folder: Path, task: Task, checkpoints: Checkpoints) -> list[Callback]:
    log_every = config.trainer.log_every
    # In this order: what measures comes before what shows and keeps.
    return [
        StopOnNonFinite(log_every, config.checkpoint.every, *task.periods),
        StepLog(log_every),
        *task.callbacks(folder),
        ProgressLine(task.shown, log_every),
        checkpoints,
        Export(folder / task.product, config.checkpoint.every, task.save),
    ]


def _program(config: RunConfig, step: int) -> dict[str, Any]:
    """What all processes must have in common; the first one alone knows the name of a new folder."""
    program = {**flat(to_dict(config)), "code": code_digest(), "update to start from": step}
    return {key: value for key, value in program.items() if key != "name"}


def _start(config: RunConfig, resume: bool, requeue: bool) -> tuple[Path, tuple[Path, int] | None]:
    """The run's folder, and the checkpoint to go on from with its step.

    Raises:
        UserError: nothing to resume, checkpoints of which none can be read, or a folder of another run.
    """
    folder = Path(config.folder, config.name)
    if resume or (requeue and any((folder / "checkpoints").glob("*.ckpt"))):
        folder = folder_to_resume(config)
        checkpoint = newest_checkpoint(folder / "checkpoints")
        if checkpoint is None:
            if any((folder / "checkpoints").glob("*.ckpt")):
                raise UserError(f"--resume: {folder / 'checkpoints'} holds no checkpoint that can be read")
            raise UserError(
                f"--resume: {folder} ended before its first checkpoint (checkpoint.every: "
                f"{config.checkpoint.every}); start it anew, without --resume, or with --requeue"
            )
        log.info("resuming %s from %s, step %d", folder, checkpoint[0].name, checkpoint[1])
        if checkpoint[1] >= config.trainer.max_steps:
            log.info("it has all of its %d steps already", config.trainer.max_steps)
        return folder, checkpoint
    # The first process alone makes folders; the others write nothing and need only the name.
    if is_main_process():
        if not (requeue and folder.is_dir()):
            folder = new_folder(config)
        elif any(folder.iterdir()):
            folder_to_resume(config)  # an attempt that ended before its first checkpoint, or a refusal
    if folder.name != config.name:
        log.warning("a run named %s exists; this one is %s", config.name, folder.name)
        config.name = folder.name
    log.info("run folder: %s", folder)
    return folder, None


def launched(options: TrainerOptions) -> tuple[int, int]:
    """(processes per node, nodes): as torchrun or srun launched us, else as the configuration says.

    Raises:
        UserError: nodes of a SLURM job with different numbers of tasks.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        return local, world // local
    if SLURMEnvironment.detect():
        tasks, nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_NNODES"])
        if tasks % nodes:
            raise UserError(
                f"srun: {tasks} tasks on {nodes} nodes; every node needs as many (--ntasks-per-node)"
            )
        return tasks // nodes, nodes
    return options.devices, options.num_nodes
