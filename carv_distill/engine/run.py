"""From a configuration to a run: folder, trainer, fit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import Strategy

from carv_distill.errors import UserError, lacks_memory

from .callbacks import Export, Periodic, ProgressLine, StepLog, StopOnNonFinite
from .checkpoints import AtomicCheckpointIO, Checkpoints, load_checkpoint, newest_checkpoint
from .config import flat
from .console import is_main_process
from .devices import (
    float32_matmul,
    launched,
    precision_of,
    require_processes,
    resolve_device,
    scheduler_plugins,
    take_own_device,
    use_threads,
)
from .environment import NAME as ENVIRONMENT
from .environment import check_shares, read_environment, write_environment
from .folder import (
    METRICS,
    kept_values,
    new_folder,
    remove_leftovers,
    write_config,
    write_summary,
)
from .interruptions import Interruption, Watchdog, code_digest, lost_message, stop_at_once
from .lock import owned
from .loggers import Results, build_loggers, log_config, log_results, require_loggers
from .metrics import read_metrics
from .options import RunConfig
from .resume import require_checkpoints, require_own, require_same
from .sharded_strategy import ShardedStrategy
from .strategies import whole_strategy
from .task import Prepared, Task

log = logging.getLogger(__name__)


def execute(
    task: Task,
    config: RunConfig,
    resume: bool = False,
    requeue: bool = False,
    report: Callable[[Path], Callback] | None = None,
) -> Path:
    """Trains what the configuration describes and returns the run's folder.

    Everything that can be wrong with the input is reported before the folder is made.

    Args:
        resume: go on from the newest checkpoint that can be read; of a run that has all its updates, make
            what comes after them.
        report: the run's folder → what writes about it beside the updates.
        requeue: the same where there is one; else start, in the folder of an attempt that ended before its
            first checkpoint if there was one.

    Raises:
        UserError: a process of the run that is lost, memory that is full, or a run that another one owns.
    """
    device = resolve_device(config.trainer)
    devices, nodes = launched(config.trainer)
    require_processes(config.trainer)
    require_loggers(config.trainer)
    use_threads(config.trainer.threads, device, _threads_before(config, resume or requeue))
    take_own_device(device)
    begins = not (resume or (requeue and _has_checkpoints(config)))
    with _enough_memory(task), stop_at_once("what was prepared is kept"):
        prepared = task.prepare(config, device, devices * nodes)
        if begins:
            prepared.require()
            prepared.begin()
        prepared.ready()
    shares = devices * nodes * prepared.accumulate
    with ExitStack() as stack:
        # not before: embeddings of prompts are kept for runs of every precision
        stack.enter_context(float32_matmul(config.trainer))
        folder, checkpoint = _start(task, config, resume, requeue, shares, stack)
        if checkpoint is None or checkpoint[1] < config.trainer.max_steps:
            if not begins:
                prepared.require()
            beside = [] if report is None else [report(folder)]
            _fit(task, config, prepared, folder, checkpoint, shares, beside)
        elif is_main_process():
            made = "it has all of its %d updates; its %s/ is made anew, in place of what lies there"
            log.info(made, checkpoint[1], task.product)
            with _enough_memory(task), stop_at_once("--resume makes it"):
                export(task, config, folder, device, None, prepared)
            _log_again(task, config, folder, checkpoint[1])
        if is_main_process():
            write_summary(folder)
    return folder


@contextmanager
def _enough_memory(task: Task) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise UserError(
            f"what is to be trained does not fit into memory; {task.out_of_memory} takes less"
        ) from error


def export(
    task: Task, config: RunConfig, folder: Path, device: str, step: int | None, prepared: Prepared | None
) -> int:
    """Makes the product of a run anew, from its checkpoint of an update (None: the newest); the update.

    Args:
        prepared: what a training of it has made already.
    """
    if task.remake is not None:
        return task.remake(config, folder, device, step)
    prepared = task.prepare(config, device, 1) if prepared is None else prepared
    step = load_checkpoint(prepared.module, folder, config, device, step)
    _make(task, config, prepared, folder, prepared.module, step, step >= config.trainer.max_steps)
    return step


def _make(
    task: Task, config: RunConfig, prepared: Prepared, folder: Path, module: Any, step: int, last: bool
) -> None:
    """The product after an update, and after the last one what only a finished run has."""
    prepared.save(module, folder / task.product, step)
    write_summary(folder, step)
    if last:
        prepared.finish(module, folder)


def _fit(
    task: Task,
    config: RunConfig,
    prepared: Prepared,
    folder: Path,
    checkpoint: tuple[Path, int] | None,
    shares: int,
    beside: list[Callback],
) -> None:
    """Trains from a checkpoint, or from the start, to the last update."""
    step = checkpoint[1] if checkpoint else 0
    if precision_of(config.trainer, resolve_device(config.trainer)) == "64-true":
        prepared.module.double()  # before Lightning would: a checkpoint is read into it as it was written
    watchdog = Watchdog(_program(config, step), config.trainer.patience)
    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint, kept_values(config))
    measuring = prepared.callbacks(folder)
    # where something is measured the host waits for the device anyway
    waits = [
        period for callback in measuring if isinstance(callback, Periodic) for period in callback.periods
    ]
    log_every = config.trainer.log_every
    healthy = StopOnNonFinite(log_every, config.checkpoint.every, *waits)
    shown = [StepLog(log_every), *measuring, ProgressLine(prepared.shown, log_every, *waits)]
    interruption = Interruption(checkpoints, healthy)
    make = partial(_make, task, config, prepared, folder)
    product = Export(config.checkpoint.every, make, prepared.gather)
    results = Results(folder, task.product, task.media)
    # in this order: what measures comes before what shows and keeps
    callbacks = [watchdog, healthy, *shown, checkpoints, product, results, *beside, interruption]
    sharded = config.trainer.sharding == "fsdp"
    several = ShardedStrategy() if sharded else whole_strategy(prepared.module, prepared.staged)
    trainer = build_trainer(config, folder, callbacks, step, several)
    if trainer.is_global_zero:
        write_config(folder, config)
        write_environment(folder, config, str(trainer.strategy.root_device), trainer.world_size, shares)
        log_config(trainer.loggers, config)
    try:
        with interruption.listening(trainer):
            trainer.fit(prepared.module, ckpt_path=checkpoint[0] if checkpoint else None, weights_only=True)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and watchdog.is_lost():
            raise UserError(lost_message(config.trainer.patience)) from error
        if lacks_memory(error):
            raise UserError(
                f"out of memory on {trainer.strategy.root_device} at update {trainer.global_step}; "
                f"{task.out_of_memory} takes less"
            ) from error
        raise


def build_trainer(
    config: RunConfig, folder: Path, callbacks: list[Callback], resume_step: int, several: Strategy
) -> Trainer:
    """Lightning's trainer for one run, alone or under torchrun or SLURM.

    Args:
        several: the strategy where there are several processes.
    """
    options, device = config.trainer, resolve_device(config.trainer)
    devices, nodes = launched(options)
    plugins: list[Any] = [AtomicCheckpointIO(mapped=options.sharding != "none"), *scheduler_plugins()]
    return Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=devices,
        num_nodes=nodes,
        strategy=several if devices * nodes > 1 else "auto",
        precision=precision_of(options, device),  # type: ignore[arg-type]
        max_steps=options.max_steps,
        max_epochs=-1,
        enable_checkpointing=False,
        callbacks=callbacks,
        plugins=plugins,
        logger=build_loggers(config, folder, resume_step),
        log_every_n_steps=options.log_every,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _log_again(task: Task, config: RunConfig, folder: Path, step: int) -> None:
    """What was made after the last update, in loggers that an attempt before has closed."""
    loggers = build_loggers(config, folder, step)
    log_results(loggers, folder, task.product, task.media, step)
    for logger in loggers:
        logger.finalize("success")


def _program(config: RunConfig, step: int) -> dict[str, Any]:
    """What all processes must have in common; the first one alone knows the name of a new folder."""
    program = {**flat(config), "code": code_digest(), "update to start from": step}
    return {key: value for key, value in program.items() if key != "name"}


def _start(
    task: Task, config: RunConfig, resume: bool, requeue: bool, shares: int, stack: ExitStack
) -> tuple[Path, tuple[Path, int] | None]:
    """The run's folder, owned while the stack lasts, and the checkpoint to go on from with its step."""
    folder = Path(config.folder, config.name)
    if resume or (requeue and _has_checkpoints(config)):
        require_same(task, config, folder)
        require_checkpoints(folder, config)
        if is_main_process():  # a slower rank would remove what rank 0 is writing by then
            stack.enter_context(owned(folder))
            remove_leftovers(folder, task.product)
        check_shares(folder, shares)
        checkpoint = newest_checkpoint(folder / "checkpoints", kept_values(config))
        if checkpoint is None:
            raise UserError(f"--resume: {folder / 'checkpoints'} holds no checkpoint that can be read")
        log.info("resuming %s from %s, step %d", folder, checkpoint[0].name, checkpoint[1])
        _say_what_is_lost(folder, checkpoint[1], config.trainer.log_every)
        return folder, checkpoint
    # The first process alone makes folders; the others write nothing and need only the name.
    if is_main_process():
        if not (requeue and folder.is_dir()):
            folder = new_folder(config)
            stack.enter_context(owned(folder))
        else:
            stack.enter_context(owned(folder))
            require_own(task, config, folder)
            remove_leftovers(folder, task.product)
    if folder.name != config.name:
        log.warning(
            "a run named %s exists; this one is %s, which --resume goes on with from its first checkpoint on",
            config.name,
            folder.name,
        )
        config.name = folder.name
    log.info("run folder: %s", folder)
    return folder, None


def _has_checkpoints(config: RunConfig) -> bool:
    return any(Path(config.folder, config.name, "checkpoints").glob("*.ckpt"))


def _say_what_is_lost(folder: Path, step: int, log_every: int) -> None:
    """Names what is gone of a run that goes on: how it was started, and rows that metrics.csv should have."""
    if is_main_process() and not (folder / ENVIRONMENT).exists():
        what = "threads, shares and teacher are not compared with the run's start"
        log.warning("%s is gone: %s", folder / ENVIRONMENT, what)
    last = max((int(row["step"]) for row in read_metrics(folder / METRICS) if row["step"] <= step), default=0)
    if is_main_process() and step - last >= log_every:
        log.warning("%s has no rows of updates %d to %d any more", folder / METRICS, last + 1, step)


def _threads_before(config: RunConfig, again: bool) -> int | None:
    """The threads of the attempt that is gone on with."""
    folder = Path(config.folder, config.name)
    if again and (folder / ENVIRONMENT).is_file():
        threads: int | None = read_environment(folder).get("threads")
        return threads
    return None
