"""Gradients of several processes, without DDP's hooks."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from lightning.pytorch.strategies import ParallelStrategy, Strategy
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """One part of an update's batch; what happens in it depends on its number alone.

    A process works through one share, or accumulates the gradient of several, one after the other: two
    processes and one that works through both shares make the same update.
    """

    index: int
    count: int
    """Shares of the whole batch."""

    @classmethod
    def of_process(cls, rank: int, world_size: int, accumulate: int) -> list[Share]:
        """The shares of one process: `accumulate` consecutive ones."""
        first = rank * accumulate
        return [cls(i, world_size * accumulate) for i in range(first, first + accumulate)]


def unsynchronised(strategy: Strategy) -> contextlib.AbstractContextManager[None]:
    """A backward without DDP's hooks, which expect every network in every backward."""
    if isinstance(strategy, ParallelStrategy):
        return strategy.block_backward_sync()
    return contextlib.nullcontext()


def average_over_ranks(vector: Tensor, world_size: int) -> None:
    """Averages a tensor in place over all processes."""
    if world_size > 1:
        torch.distributed.all_reduce(vector)
        vector /= world_size


def gather_over_ranks(tensor: Tensor, world_size: int) -> Tensor:
    """The tensors of all processes, joined along the first axis in the order of their ranks."""
    if world_size == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size)]
    torch.distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)
