"""Networks that no single device holds: parameters, gradients, moments and averages in shards (FSDP2).

Each process keeps 1/N of every parameter, cut along its first axis, and all of them join the parameters of
one block at a time while it computes. A forward's blocks are freed at once, also where a backward will need
them again: between the student's forward and its backward fake score and teacher run, and three networks
would lie there whole otherwise.

A checkpoint is the same file with shards or without: its tensors are joined one at a time and kept in the
memory of rank 0's host, so that no device ever has a whole network, and a run goes on with any number of
processes.

Source: torch's `fully_shard`; Rajbhandari et al. 2020 (ZeRO); Zhao et al. 2023 (PyTorch FSDP).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from diffusers import ModelMixin
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.optim import Optimizer

from carv_distill.processes import average_over_ranks
from carv_distill.variance import flat_gradient

from .optimisation import NetworkParameters, ParameterVector

if TYPE_CHECKING:
    from lightning.pytorch.core.optimizer import LightningOptimizer


def blocks(network: nn.Module) -> list[nn.Module]:
    """What is joined at a time, inner blocks first: what diffusers says must not be split, and the blocks
    that a model lists at its top."""
    model = next((m for m in network.modules() if isinstance(m, ModelMixin)), network)
    names = set(getattr(model, "_no_split_modules", None) or ())
    lists = [child for child in model.children() if isinstance(child, nn.ModuleList | nn.ModuleDict)]
    tops = {id(block) for children in lists for block in children.children()}
    tops |= {id(child) for name, child in model.named_children() if name == "mid_block"}
    chosen = [m for m in model.modules() if type(m).__name__ in names or id(m) in tops]
    # a module's tree is walked from the outside in; what has no parameters needs no company
    return [m for m in reversed(chosen) if m is not model and next(m.parameters(), None) is not None]


def largest_joined(network: nn.Module) -> int:
    """Parameters of the largest part that is joined at a time: a block without those inside it, or what is in
    none."""
    sizes, taken = [], set[int]()
    for module in (*blocks(network), network):
        own = [p for p in module.parameters() if id(p) not in taken]
        sizes.append(sum(p.numel() for p in own))
        taken |= {id(p) for p in own}
    return max(sizes)


def shard(network: nn.Module, mesh: DeviceMesh, whole: Iterable[Parameter] = ()) -> None:
    """Shards a network over the processes of a mesh, block by block, onto their devices.

    Its parameters are other objects from then on. It is to be called as a module, or by `encoder`.

    Args:
        whole: parameters that every process keeps, as adapters; their gradients are the caller's to average.
    """
    kept = set(whole)
    # of what a network gives nothing is changed in place here
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    for module in (*blocks(network), network):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=kept or None)
    if callable(getattr(network, "encoder", None)):
        register_fsdp_forward_method(network, "encoder")
    if dist.get_backend(mesh.get_group()) != "nccl":  # which alone can average
        for module in network.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)


def own_part(whole: Tensor, like: DTensor) -> Tensor:
    """What this process has of a tensor that is cut as another one."""
    (placement,), mesh = like.placements, like.device_mesh
    chunks = whole.chunk(mesh.size(), placement.dim)  # type: ignore[attr-defined]
    rank = mesh.get_local_rank()
    return chunks[rank] if rank < len(chunks) else whole.narrow(placement.dim, 0, 0)  # type: ignore[attr-defined]


def joined(tensor: Tensor) -> Tensor:
    """A whole tensor, on the CPU of rank 0, and nothing [0] on the others; called by all."""
    value = tensor.detach()
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.cpu() if dist.get_rank() == 0 else value.new_empty(0, device="cpu")


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """The norm of all tensors as one vector, where they are sharded over all processes; a scalar."""
    sharded, whole = list[Tensor](), list[Tensor]()
    for tensor in tensors:
        if isinstance(tensor, DTensor):
            sharded.append(tensor.to_local().detach())
        else:
            whole.append(tensor.detach())
    if not sharded:
        return nn.utils.get_total_norm(whole)
    square = nn.utils.get_total_norm(sharded).double().square()
    dist.all_reduce(square)
    if whole:
        square += nn.utils.get_total_norm(whole).double().square()
    return square.sqrt().to(sharded[0].dtype)


class ParameterShards(NetworkParameters):
    """θ ∈ ℝ^d of a sharded network: what this process has of each parameter.

    A backward leaves the mean over all processes; nothing is left to average. A step uses the gradients up.

    Args:
        parameters: all sharded; their order is that of θ.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.tensors = list(parameters)
        self._norm = torch.zeros(())

    @property
    def local(self) -> list[Tensor]:
        return [cast(DTensor, p.detach()).to_local() for p in self.tensors]

    @property
    def gradients(self) -> list[Tensor]:
        return [cast(DTensor, p.grad).to_local() for p in self.tensors]

    def collect_gradient(self) -> None:
        for p in self.tensors:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        self._norm = total_norm(cast(Tensor, p.grad) for p in self.tensors)

    def gradient_norm(self) -> Tensor:
        return self._norm

    def descend(
        self, optimizer: Optimizer | LightningOptimizer, greatest: float | None = None
    ) -> Tensor | None:
        clipped = super().descend(optimizer, greatest)
        self.take_gradient()
        return clipped

    def _scale(self, factor: Tensor) -> None:
        super()._scale(factor)
        self._norm = self._norm * factor

    def take_gradient(self) -> list[Tensor]:
        """The gradients, which are none from then on: a backward would add to them."""
        gradients = self.gradients
        for p in self.tensors:
            p.grad = None
        return gradients

    def whole(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(
            [joined(part_like(part, p)).flatten() for part, p in zip(parts, self.tensors, strict=True)]
        )

    def own(self, vector: Tensor) -> list[Tensor]:
        parts = vector.split([p.numel() for p in self.tensors])
        pairs = zip(parts, self.tensors, strict=True)
        return [own_part(part.view(p.shape), cast(DTensor, p)) for part, p in pairs]


def part_like(part: Tensor, parameter: Tensor) -> Tensor:
    """A process's part as the sharded tensor that it belongs to."""
    like = cast(DTensor, parameter)
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def network_parameters(parameters: Sequence[Parameter], world_size: int) -> NetworkParameters:
    """θ of a network, in shards where its parameters are."""
    if isinstance(parameters[0], DTensor):
        return ParameterShards(parameters)
    return ParameterVector(parameters, world_size)


def mean_gradient(
    losses: Iterable[Tensor], count: int, parameters: Sequence[Parameter], world_size: int
) -> Tensor:
    """The gradient of the mean of `count` losses of each process, over all of them, as a vector [d], or this
    process's part of it where the parameters are sharded. Gradients that wait for an optimiser are none of
    its business: of sharded parameters there are none, of others they stay.

    Args:
        losses: one at a time, so that a large network's graphs are not all held.
    """
    if isinstance(parameters[0], DTensor):
        shards = ParameterShards(parameters)
        for loss in losses:
            (loss / count).backward()
        shards.collect_gradient()
        return torch.cat([part.flatten() for part in shards.take_gradient()])
    gradient = reduce(Tensor.add_, (flat_gradient(loss, parameters) for loss in losses)).div_(count)
    average_over_ranks(gradient, world_size)
    return gradient


def sum_over_parts(parameters: Sequence[Parameter]) -> Callable[[Tensor], Tensor]:
    """What adds up a sum over the entries of :func:`mean_gradient`'s vector: over the parts of all processes
    where it is in parts."""

    def of_all(value: Tensor) -> Tensor:
        if isinstance(parameters[0], DTensor):
            dist.all_reduce(value)
        return value

    return of_all


def _itself(network: nn.Module) -> nn.Module:
    return network


class Skeleton:
    """A copy of a network whose parameters have shapes and no memory, from before the network is sharded.

    Args:
        holder: network → the module that holds its parameters, where that is another one.
    """

    def __init__(self, network: nn.Module, holder: Callable[[nn.Module], nn.Module] = _itself) -> None:
        self.holder = holder
        empty = {
            id(p): Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
            for p in holder(network).parameters()
        }
        self.network = copy.deepcopy(network, cast(dict[int, Any], empty))

    def filled(self, network: nn.Module) -> nn.Module | None:
        """A whole and independent copy of the sharded network on the CPU of rank 0, None on the others; all
        call it."""
        state = {name: joined(value) for name, value in self.holder(network).state_dict().items()}
        if dist.get_rank():
            return None
        whole = copy.deepcopy(self.network)
        self.holder(whole).load_state_dict(state, assign=True)
        return whole
