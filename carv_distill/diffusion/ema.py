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


def ema_update(average: Sequence[Tensor], parameters: Sequence[Tensor], decay: float, updates: int) -> None:
    """θ̄ ← δ θ̄ + (1 − δ) θ with δ = min(decay, (1 + n)/(10 + n)) after n updates, in place.

    The ramp forgets the initial network while the run is young. Sequences of tensors and not modules, as
    walking a module's tree costs more than the update of a small network; one long vector costs least.
    """
    ramped = min(decay, (1 + updates) / (10 + updates))
    get_ema_multi_avg_fn(ramped)(list(average), list(parameters), updates)
