"""How weights move: their average, learning rates, and a network's parameters as one vector."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR
from torch.optim.swa_utils import get_ema_multi_avg_fn

from carv_distill.variance import StageTimer

Network = TypeVar("Network", bound=nn.Module)


def frozen_copy(network: Network) -> Network:
    """An independent copy that takes no gradient."""
    return copy.deepcopy(network).requires_grad_(False).eval()


def ramped(decay: float, updates: int) -> float:
    """min(decay, (1 + n)/(10 + n)) after n updates: forgets the initial network while the run is young."""
    return min(decay, (1 + updates) / (10 + updates))


def ema_update(average: Sequence[Tensor], parameters: Sequence[Tensor], decay: float) -> None:
    """θ̄ ← δ θ̄ + (1 − δ) θ, in place.

    Of tensors and not of modules, as torch's AveragedModel has it: walking a module's tree costs more than
    the update of a small network.
    """
    get_ema_multi_avg_fn(decay)(list(average), list(parameters), 0)


def warm_cosine(step: int, warmup: int, length: int | None) -> float:
    """min(1, (n + 1)/W) · (1 + cos(π n/N))/2 at step n: warm-up over W steps (0: none) and decay over N
    (None: none) at once, as in distillation."""
    warm = min(1.0, (step + 1) / max(warmup, 1))
    return warm if length is None else warm * ((1 + math.cos(math.pi * step / length)) / 2)


def stage_rate(step: int, start: int, end: int, warmup: int) -> float:
    """The factor of a stage that trains from `start` to `end`: up in a line, then down by a half cosine; 0 in
    other stages."""
    warmup, done = min(warmup, (end - start) // 2), step - start
    if not 0 <= done < end - start:
        return 0.0
    if done < warmup:
        return (done + 1) / warmup
    return (1 + math.cos(math.pi * (done - warmup) / (end - start - warmup))) / 2


def warm_then_cosine(optimizer: Optimizer, warmup: int, length: int) -> LRScheduler:
    """Torch's schedulers: a line from a thousandth of the rate, then a half cosine to zero at `length`."""
    warm = LinearLR(optimizer, 1e-3, total_iters=max(warmup, 1))
    cosine = CosineAnnealingLR(optimizer, max(length - warmup, 1))
    return SequentialLR(optimizer, [warm, cosine], [warmup])


class ParameterVector:
    """θ ∈ ℝ^d: the parameters of a network moved into one tensor, of which they become views.

    An optimiser of ``theta`` updates the network in place, by one operation where a hundred small parameters
    cost a hundred, and processes average one gradient. (torch.nn.utils.parameters_to_vector copies at each
    call instead.) The views last until the network moves to another device or type.

    Args:
        parameters: of one network, on one device, of one type; their order is the vector's.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parts = list(parameters)
        self.theta = Parameter(torch.cat([p.detach().flatten() for p in self.parts]))
        sizes = [p.numel() for p in self.parts]
        for p, view in zip(self.parts, self.theta.detach().split(sizes), strict=True):
            p.data = view.view_as(p)

    def collect_gradient(self) -> Tensor:
        """Moves the parameters' gradients, as a backward left them, into ``theta.grad`` [d]; returns it.

        A parameter that the backward did not reach counts as gradient zero.
        """
        parts = [p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in self.parts]
        for p in self.parts:
            p.grad = None
        if self.theta.grad is None:
            self.theta.grad = torch.empty_like(self.theta)
        return torch.cat(parts, out=self.theta.grad)


def time_at_rest(
    timer: StageTimer,
    device: torch.device,
    optimizers: Sequence[Optimizer],
    update: Callable[[int], object],
    repeats: int = 10,
) -> None:
    """Times numbered updates as the stage ``other``, after one that does not count, at learning rates of
    zero: no weight changes."""
    for group in (g for optimizer in optimizers for g in optimizer.param_groups):
        group.update(lr=0.0, weight_decay=0.0)
    for number in range(repeats + 1):
        counted = timer if number else StageTimer(device)
        with counted.stage("other"):
            update(number)
