"""Exponential moving average of a network's parameters."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

Network = TypeVar("Network", bound=nn.Module)


def frozen_copy(network: Network) -> Network:
    """An independent copy that takes no gradient."""
    return copy.deepcopy(network).requires_grad_(False).eval()


def ramped(decay: float, updates: int) -> float:
    """min(decay, (1 + n)/(10 + n)) after n updates: forgets the initial network while the run is young, and
    caps the decay at 0.999 for the first 9,000 updates."""
    return min(decay, (1 + updates) / (10 + updates))


def ema_update(average: Sequence[Tensor], parameters: Sequence[Tensor], decay: float) -> None:
    """θ̄ ← δ θ̄ + (1 − δ) θ, in place.

    Sequences of tensors and not modules, as walking a module's tree costs more than the update of a small
    network; one long vector costs least.
    """
    get_ema_multi_avg_fn(decay)(list(average), list(parameters), 0)
