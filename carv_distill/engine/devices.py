"""Where a run computes, in which precision, on how many threads, and how its processes were launched."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment

from carv_distill.errors import UserError

from .options import TrainerOptions

log = logging.getLogger(__name__)


def precision_of(options: TrainerOptions, device: str) -> str:
    """The configured precision; auto is bf16-mixed on CUDA and 32-true on a CPU."""
    if options.precision != "auto":
        return options.precision
    return "bf16-mixed" if device == "cuda" else "32-true"


def resolve_device(options: TrainerOptions) -> str:
    """cuda or cpu; UserError for a GPU that is not there."""
    if options.accelerator == "cpu" or (options.accelerator == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise UserError("trainer.accelerator: cuda, but there is no CUDA device here (allowed: auto, cpu)")
    present, (wanted, _) = torch.cuda.device_count(), launched(options)
    if wanted > present:
        raise UserError(f"trainer.devices: {wanted} GPUs are asked for, {present} are here")
    return "cuda"


def own_device(device: str) -> str:
    """This process's device: of several GPUs the one by its number on the node, as torchrun, srun or
    Lightning say it."""
    number = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    return f"cuda:{number % torch.cuda.device_count()}" if device == "cuda" else device


def free_memory(device: str) -> int | None:
    """Bytes of this process's CUDA device that nobody has, and those that torch has there but does not use;
    None of a CPU, where memory ends in another way."""
    if device != "cuda":
        return None
    own = own_device(device)
    free, _ = torch.cuda.mem_get_info(own)
    return free + torch.cuda.memory_reserved(own) - torch.cuda.memory_allocated(own)


def take_own_device(device: str) -> None:
    """Makes :func:`own_device` the process's current GPU, before anything is put there: `cuda` alone is the
    first one of all processes."""
    if device == "cuda":
        torch.cuda.set_device(own_device(device))


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
            why = "every node needs as many (--ntasks-per-node)"
            raise UserError(f"srun: {tasks} tasks on {nodes} nodes; {why}")
        return tasks // nodes, nodes
    return options.devices, options.num_nodes


def require_processes(options: TrainerOptions) -> None:
    """UserError for a training that one process cannot make."""
    devices, nodes = launched(options)
    if options.sharding != "none" and devices * nodes == 1:
        raise UserError(
            f"trainer.sharding: {options.sharding} needs at least 2 processes, found 1 (torchrun "
            "--nproc-per-node 2 train.py …, or trainer.devices=2; trainer.sharding=none trains in one)"
        )


def scheduler_plugins() -> list[Any]:
    """Lightning's plugin for tasks that srun started."""
    if "TORCHELASTIC_RUN_ID" not in os.environ and SLURMEnvironment.detect():
        return [SLURMEnvironment(auto_requeue=False)]  # Interruption sees to it, for all schedulers
    return []


def autocast_of(
    options: TrainerOptions, device: str
) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """The context that forward passes of a training are, or would here be, made in."""
    if precision_of(options, device) == "bf16-mixed":
        return partial(torch.autocast, device, torch.bfloat16, cache_enabled=False)  # as in a training
    return contextlib.nullcontext


@contextlib.contextmanager
def float32_matmul(options: TrainerOptions) -> Iterator[None]:
    """A block with `trainer.float32_matmul`, which torch has for the whole process."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(options.float32_matmul)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def use_threads(wanted: int | None, device: str, before: int | None = None) -> None:
    """Sets torch's threads on a CPU and says how many.

    As many as `trainer.threads` says; else as many as the attempt had that is gone on with, as sums depend on
    them in their last bits; else what torch takes by itself: OMP_NUM_THREADS, or one for each core. On a busy
    machine :func:`carv_distill.command_line.spin_briefly` keeps them from stalling each other.
    """
    if device != "cpu":
        return
    torch.set_num_threads(wanted or before or torch.get_num_threads())
    unset = "as in the attempt before" if before else "trainer.threads changes it"
    log.info("CPU threads: %d (%s)", torch.get_num_threads(), "trainer.threads" if wanted else unset)
