"""From a configuration to a run: folder, trainer, fit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from carv_distill.errors import UserError
from carv_distill.files import write_json

from .callbacks import Export, Periodic, ProgressLine, StepLog, StopOnNonFinite
from .checkpoints import AtomicCheckpointIO, Checkpoints, newest_checkpoint
from .config import flat
from .console import is_main_process
from .devices import launched, precision_of, resolve_device, scheduler_plugins, use_threads
from .folder import (
    check_shares,
    folder_to_resume,
    new_folder,
    read_environment,
    remove_leftovers,
    require_checkpoints,
    write_environment,
)
from .interruptions import Preemption, Watchdog, code_digest, lost_message
from .metrics import MetricsLogger, read_metrics
from .options import RunConfig
from .task import Prepared, Task

log = logging.getLogger(__name__)


def execute(task: Task, config: RunConfig, resume: bool = False, requeue: bool = False) -> Path:
    """Trains what the configuration describes and returns the run's folder.

    Everything that can be wrong with the input is reported before the folder is made.

    Args:
        resume: go on from the newest checkpoint that can be read.
        requeue: the same where there is one; else start, in the folder of an attempt that ended before its
            first checkpoint if there was one.

    Raises:
        UserError: a process of the run that is lost, or memory that is full.
    """
    device = resolve_device(config.trainer)
    devices, nodes = launched(config.trainer)
    use_threads(config.trainer.threads, device, _threads_before(config, resume or requeue))
    prepared = task.prepare(config, device, devices * nodes)
    folder, checkpoint = _start(task, config, resume, requeue)
    step = checkpoint[1] if checkpoint else 0
    shares = devices * nodes * prepared.accumulate
    if checkpoint:
        check_shares(folder, shares)
    if precision_of(config.trainer, device) == "64-true":
        prepared.module.double()  # before Lightning would: a checkpoint is read into it as it was written
    watchdog = Watchdog(_program(config, step), config.trainer.patience)
    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint)
    preemption = Preemption(checkpoints)
    callbacks = [watchdog, *_callbacks(task, config, folder, prepared, checkpoints), preemption]
    trainer = build_trainer(config, folder, callbacks, step, prepared.strategy)
    if trainer.is_global_zero:
        write_environment(folder, config, str(trainer.strategy.root_device), trainer.world_size, shares)
    try:
        with preemption.listening(trainer):
            trainer.fit(prepared.module, ckpt_path=checkpoint[0] if checkpoint else None, weights_only=True)
    except RuntimeError as error:
        if watchdog.is_lost():
            raise UserError(lost_message(config.trainer.patience)) from error
        if isinstance(error, torch.OutOfMemoryError):
            raise UserError(
                f"out of memory on {trainer.strategy.root_device} at update {trainer.global_step}; "
                f"{task.out_of_memory} takes less"
            ) from error
        raise
    if trainer.is_global_zero:
        write_json(folder / "summary.json", summary(folder))
    return folder


def build_trainer(
    config: RunConfig, folder: Path, callbacks: list[Callback], resume_step: int = 0, strategy: str = "ddp"
) -> Trainer:
    """Lightning's trainer for one run, alone or under torchrun or SLURM."""
    options, device = config.trainer, resolve_device(config.trainer)
    devices, nodes = launched(options)
    plugins: list[Any] = [AtomicCheckpointIO(), *scheduler_plugins()]
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
    task: Task, config: RunConfig, folder: Path, prepared: Prepared, checkpoints: Checkpoints
) -> list[Callback]:
    log_every, own = config.trainer.log_every, prepared.callbacks(folder)
    # where something is measured the host waits for the device anyway
    waits = [period for callback in own if isinstance(callback, Periodic) for period in callback.periods]
    # In this order: what measures comes before what shows and keeps.
    return [
        StopOnNonFinite(log_every, config.checkpoint.every, *waits),
        StepLog(log_every),
        *own,
        ProgressLine(prepared.shown, log_every),
        checkpoints,
        Export(folder / task.product, config.checkpoint.every, prepared.save),
    ]


def _program(config: RunConfig, step: int) -> dict[str, Any]:
    """What all processes must have in common; the first one alone knows the name of a new folder."""
    program = {**flat(config), "code": code_digest(), "update to start from": step}
    return {key: value for key, value in program.items() if key != "name"}


def _start(
    task: Task, config: RunConfig, resume: bool, requeue: bool
) -> tuple[Path, tuple[Path, int] | None]:
    """The run's folder, and the checkpoint to go on from with its step."""
    folder = Path(config.folder, config.name)
    if resume or (requeue and any((folder / "checkpoints").glob("*.ckpt"))):
        folder = folder_to_resume(task, config)
        require_checkpoints(folder, config)
        if is_main_process():  # a slower rank would remove what rank 0 is writing by then
            remove_leftovers(folder, task.product)
        checkpoint = newest_checkpoint(folder / "checkpoints")
        if checkpoint is None:
            raise UserError(f"--resume: {folder / 'checkpoints'} holds no checkpoint that can be read")
        log.info("resuming %s from %s, step %d", folder, checkpoint[0].name, checkpoint[1])
        if checkpoint[1] >= config.trainer.max_steps:
            log.info("it has all of its %d steps already", config.trainer.max_steps)
        return folder, checkpoint
    # The first process alone makes folders; the others write nothing and need only the name.
    if is_main_process():
        if not (requeue and folder.is_dir()):
            folder = new_folder(config)
        elif any(folder.iterdir()):
            folder_to_resume(task, config)  # an attempt that ended before its first checkpoint, or a refusal
            remove_leftovers(folder, task.product)
    if folder.name != config.name:
        log.warning(
            "a run named %s exists; this one is %s (--resume goes on with %s)",
            config.name,
            folder.name,
            config.name,
        )
        config.name = folder.name
    log.info("run folder: %s", folder)
    return folder, None


def _threads_before(config: RunConfig, again: bool) -> int | None:
    """The threads of the attempt that is gone on with."""
    folder = Path(config.folder, config.name)
    if again and (folder / "environment.json").is_file():
        threads: int = read_environment(folder)["threads"]
        return threads
    return None
