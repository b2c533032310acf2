"""Gradients of several processes, without DDP's hooks."""

from __future__ import annotations

import contextlib

import torch
from lightning.pytorch.strategies import ParallelStrategy, Strategy
from torch import Tensor


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
