"""How weights move: their average, learning rates, and a network's parameters as one vector."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR
from torch.optim.swa_utils import get_ema_multi_avg_fn

from carv_distill.processes import average_over_ranks
from carv_distill.variance import StageTimer

if TYPE_CHECKING:
    from lightning.pytorch.core.optimizer import LightningOptimizer

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


AverageUpdate = Callable[[Sequence[Tensor], Sequence[Tensor], float], None]
"""(θ̄, θ, δ), as :func:`ema_update`."""


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


class NetworkParameters(ABC):
    """θ of a network, as its optimiser and its averages take it: all of it in every process
    (:class:`ParameterVector`), or a part in each (:class:`carv_distill.engine.sharding.ParameterShards`).

    All processes call the methods together.
    """

    tensors: list[Parameter]
    """What an optimiser takes."""

    @property
    @abstractmethod
    def local(self) -> list[Tensor]:
        """The numbers of θ that this process has, in memory that they share with the network."""

    @property
    @abstractmethod
    def gradients(self) -> list[Tensor]:
        """Those of the gradient, between :meth:`collect_gradient` and the optimiser's step."""

    @abstractmethod
    def collect_gradient(self) -> None:
        """Puts the gradients that backwards left, the mean over all processes, where the optimiser reads
        them. A parameter that no backward reached counts as gradient zero."""

    @abstractmethod
    def gradient_norm(self) -> Tensor:
        """The norm of the whole gradient that was last descended, after clipping; a scalar."""

    @abstractmethod
    def whole(self, parts: Sequence[Tensor]) -> Tensor:
        """Tensors like :attr:`local`, joined to one of θ's length [d]; where θ is in parts, on the CPU of
        rank 0, and nothing [0] on the others."""

    @abstractmethod
    def own(self, vector: Tensor) -> list[Tensor]:
        """What this process has of a vector [d], as tensors like :attr:`local`."""

    def descend(
        self, optimizer: Optimizer | LightningOptimizer, greatest: float | None = None
    ) -> Tensor | None:
        """One step by the gradients that backwards left.

        Args:
            greatest: norm of the gradient, to which a longer one is cut.

        Returns:
            Whether it was cut, where there is a limit.
        """
        self.collect_gradient()
        clipped = None
        if greatest is not None:
            norm = self.gradient_norm()
            clipped = norm > greatest
            self._scale((greatest / (norm + 1e-6)).clamp(max=1))
        optimizer.step()
        return clipped

    def _scale(self, factor: Tensor) -> None:
        torch._foreach_mul_(self.gradients, factor)

    def average_into(
        self, average: Sequence[Tensor], decay: float, update: AverageUpdate = ema_update
    ) -> None:
        """θ̄ ← δ θ̄ + (1 − δ) θ of tensors like :attr:`local`; `update` knows where they lie."""
        update(average, self.local, decay)

    def cut(self, row: Tensor) -> list[Tensor]:
        """A vector as long as this process's part of θ, as views like :attr:`local`."""
        like = self.local
        return [part.view_as(t) for part, t in zip(row.split([t.numel() for t in like]), like, strict=True)]


def _itself(tensor: Tensor) -> Tensor:
    return tensor


class ParameterVector(NetworkParameters):
    """θ ∈ ℝ^d: the parameters of a network moved into one tensor, of which they become views.

    An optimiser of ``theta`` updates the network in place, by one operation where a hundred small parameters
    cost a hundred, and processes average one gradient. (torch.nn.utils.parameters_to_vector copies at each
    call instead.) The views last until the network moves to another device or type.

    Args:
        parameters: of one network, on one device, of one type; their order is the vector's.
        world_size: processes, of which each has all of them.
        place: puts θ where it is to lie.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        world_size: int = 1,
        place: Callable[[Tensor], Tensor] = _itself,
    ) -> None:
        self.parts, self.world_size = list(parameters), world_size
        self.theta = Parameter(place(torch.cat([p.detach().flatten() for p in self.parts])))
        self.tensors = [self.theta]
        sizes = [p.numel() for p in self.parts]
        for p, view in zip(self.parts, self.theta.detach().split(sizes), strict=True):
            p.data = view.view_as(p)

    @property
    def local(self) -> list[Tensor]:
        return [self.theta.detach()]

    @property
    def gradients(self) -> list[Tensor]:
        assert self.theta.grad is not None
        return [self.theta.grad]

    def split(self, size: int) -> None:
        """Lets an optimiser take θ as several tensors of at most so many numbers: one whose kernels count in
        32 bits needs it."""
        if len(self.theta) > size:
            self.tensors = [Parameter(part) for part in self.theta.detach().split(size)]

    def collect_gradient(self) -> None:
        parts = [p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in self.parts]
        for p in self.parts:
            p.grad = None
        if self.theta.grad is None:
            self.theta.grad = torch.empty_like(self.theta)
        average_over_ranks(torch.cat(parts, out=self.theta.grad), self.world_size)
        if len(self.tensors) > 1:
            for tensor, part in zip(self.tensors, self.theta.grad.split(len(self.tensors[0])), strict=True):
                tensor.grad = part

    def gradient_norm(self) -> Tensor:
        return torch.linalg.vector_norm(self.gradients[0])

    def whole(self, parts: Sequence[Tensor]) -> Tensor:
        (vector,) = parts
        return vector

    def own(self, vector: Tensor) -> list[Tensor]:
        return [vector]


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
