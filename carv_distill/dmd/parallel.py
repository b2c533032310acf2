"""Gradients of several processes, without DDP's hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from lightning.pytorch.strategies import ParallelStrategy, Strategy
from torch import Tensor


def unsynchronised(strategy: Strategy) -> contextlib.AbstractContextManager[None]:
    """A backward without DDP's hooks, which expect every network in every backward."""
    if isinstance(strategy, ParallelStrategy):
        return strategy.block_backward_sync()
    return contextlib.nullcontext()


def average_over_ranks(tensors: Sequence[Tensor], world_size: int) -> None:
    """Averages tensors in place over all processes, with one collective."""
    if world_size == 1:
        return
    flat = torch.cat([t.flatten() for t in tensors])
    torch.distributed.all_reduce(flat)
    flat /= world_size
    for t, average in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        t.copy_(average.view_as(t))
