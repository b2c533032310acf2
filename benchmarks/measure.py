"""Ratios of seconds, and peaks of memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile


def ratio_of(numerator: list[float], denominator: list[float]) -> tuple[float, float, float]:
    """Median of the paired ratios with an interval for the median (binomial, 95 %)."""
    ratios = sorted(a / b for a, b in zip(numerator, denominator, strict=True))
    n = len(ratios)
    half = 0.98 * n**0.5
    low, high = max(0, int(n / 2 - half)), min(n - 1, int(n / 2 + half))
    return statistics.median(ratios), ratios[low], ratios[high]


def peak_bytes(work: Callable[[], object]) -> int:
    """Peak of the bytes that torch holds on the CPU beyond what it held before.

    Counted from the profiler's record of every allocation, so that it repeats exactly.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    events = record.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def held_bytes(module: nn.Module, optimizers: Iterable[Optimizer]) -> int:
    """Of this process's parameters, of the gradients of those that have one, and of optimisers' moments."""
    held = [own_part(p).nbytes * (1 + p.requires_grad) for p in module.parameters()]
    states = [state.values() for optimizer in optimizers for state in optimizer.state.values()]
    return sum(held) + sum(own_part(t).nbytes for state in states for t in state)


def own_part(tensor: Tensor) -> Tensor:
    """What this process has of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def bare_fit(module: LightningModule, steps: int) -> None:
    """Steps in a trainer that does nothing else."""
    Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module)
