"""Exponential moving average of a network's parameters."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

Network = TypeVar("Network", bound=nn.Module)


def frozen_copy(network: Network) -> Network:
    """An independent copy that takes no gradient."""
    return copy.deepcopy(network).requires_grad_(False).eval()


def ema_update(average: nn.Module, network: nn.Module, decay: float, updates: int) -> None:
    """θ̄ ← δ θ̄ + (1 − δ) θ with δ = min(decay, (1 + n)/(10 + n)) after n updates.

    The ramp forgets the initial network while the run is young.
    """
    ramped = min(decay, (1 + updates) / (10 + updates))
    get_ema_multi_avg_fn(ramped)(list(average.parameters()), list(network.parameters()), updates)
