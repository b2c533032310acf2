"""Lightning's part of sharding: when networks are cut, and what a checkpoint of them holds."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, cast

from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from .sharding import ParameterShards, joined, part_like
from .strategies import UnwrappedStrategy


class ShardedModule(Protocol):
    """A module that can shard its networks."""

    frozen: tuple[str, ...]
    """How the names of tensors begin that are not in checkpoints."""

    def shard(self, mesh: DeviceMesh) -> None:
        """Cuts all networks, by :func:`carv_distill.engine.sharding.shard`; before there are optimisers."""


class ShardedStrategy(UnwrappedStrategy):
    """Networks sharded over all processes.

    Not Lightning's ModelParallelStrategy: its checkpoints are other files than those of unsharded runs, are
    written beside the run's CheckpointIO, which makes them whole or not there, and hold the frozen teacher
    too; its optimisers must be of all parameters by their names. There is no wrapper: FSDP's hooks lie in the
    networks.

    A checkpoint is read into whole networks, in the host's memory, before they are cut.
    """

    def model_to_device(self) -> None:
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        cast(ShardedModule, self.lightning_module).shard(mesh)
        super().model_to_device()

    @contextmanager
    def block_backward_sync(self) -> Generator[None]:
        """A block whose backwards add to whole gradients in each process; the next backward reduces them."""
        assert self.lightning_module is not None
        roots = [m for m in self.lightning_module.modules() if isinstance(m, FSDPModule)]
        for module in roots:
            module.set_requires_gradient_sync(False, recurse=False)
        try:
            yield
        finally:
            for module in roots:
                module.set_requires_gradient_sync(True, recurse=False)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        frozen, state = cast(ShardedModule, self.lightning_module).frozen, self.lightning_module.state_dict()
        return {name: joined(value) for name, value in state.items() if not name.startswith(frozen)}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """That of an optimiser of θ as one vector."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        shards, state = _shards(optimizer), optimizer.state_dict()
        if shards is None:
            return state
        (group,) = state["param_groups"]
        own: dict[int, dict[str, Tensor]] = state["state"]
        vectors = {}
        for name, first in own[0].items() if own else ():
            parts = [own[i][name] for i in range(len(own))]
            vectors[name] = first if not first.ndim else shards.whole([_local(part) for part in parts])
        return {"state": {0: vectors} if own else {}, "param_groups": [{**group, "params": [0]}]}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            if isinstance(optimizer, LightningOptimizer):
                optimizer = optimizer.optimizer
            shards = _shards(optimizer)
            optimizer.load_state_dict(state if shards is None else _cut(state, shards))


def _shards(optimizer: Optimizer) -> ParameterShards | None:
    """What an optimiser moves, where that is sharded."""
    (group,) = optimizer.param_groups
    return ParameterShards(group["params"]) if isinstance(group["params"][0], DTensor) else None


def _local(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, DTensor)
    return tensor.to_local()


def _cut(state: Mapping[str, Any], shards: ParameterShards) -> dict[str, Any]:
    """The state of an optimiser of one vector as that of an optimiser of this process's parts of it."""
    (group,), numbers = state["param_groups"], range(len(shards.tensors))
    own: dict[int, dict[str, Tensor]] = {i: {} for i in numbers} if state["state"] else {}
    for name, value in state["state"].get(0, {}).items():
        if not value.ndim:
            parts = [value.clone() for _ in numbers]
        else:
            pairs = zip(shards.own(value), shards.tensors, strict=True)
            parts = [part_like(part.to(p.device, copy=True), p) for part, p in pairs]
        for i, part in enumerate(parts):
            own[i][name] = part
    return {"state": own, "param_groups": [{**group, "params": list(numbers)}]}
