"""What a call of a network takes, in bytes and FLOPs, counted without its memory and without its work.

The network is called on torch's fake tensors: they have shapes, types and storages but no memory, so that a
network of any size is counted on any machine. What is kept for a backward is exact for the kernels that torch
would take; kernels' own workspaces are not in it.
"""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Call = Callable[[nn.Module, int], Tensor]
"""(network, n) → its output for n samples; makes its own inputs, on the network's device."""


@dataclass(frozen=True)
class Bytes:
    """Bytes of a call of n samples, b(n) = fixed + n · each."""

    fixed: int = 0
    each: int = 0

    def __call__(self, n: int) -> int:
        """b(n); of no call at all 0."""
        return self.fixed + n * self.each if n else 0


@dataclass(frozen=True)
class Footprint:
    """Of one network, beyond its parameters and their gradients."""

    inference: Bytes
    """Peak of a call without a graph."""
    kept: Bytes
    """What a call with a graph leaves for its backward."""
    training: Bytes
    """Peak of a call with its backward; each parameter's gradient is left out."""
    inference_flops: int
    """FLOPs of one sample: of a call without a graph,"""
    training_flops: int
    """and of one with its backward."""


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """A block in which networks are built that take none: fake ones, for :func:`footprints` alone."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def footprints(
    network: nn.Module, call: Call, autocast: torch.dtype | None = None, flops: bool = True
) -> tuple[Footprint, Footprint | None]:
    """What calls of a network take, with the parameters that require gradients as they are, and what with
    diffusers' gradient checkpointing; None where no model in the network has blocks for it.

    Two calls, of 1 and of 2 samples, give the straight lines; a network whose rows do not depend on each
    other has no others. With checkpointing, what the blocks keep inside is away but for the largest one's,
    which a backward has computed again, and a call with its backward is one call more.

    Args:
        network: real, which stays as it is, or made :func:`without_memory`. A view of shared adapters lacks
            the network that it calls: for its blocks, give both in one ``nn.ModuleList``.
        call: of n samples; it is given a network that has no memory.
        autocast: the type of a mixed-precision training, as CUDA and Lightning (without a cache) have it,
            whatever device the network is on; None: none.
        flops: whether to count them too, which takes as long again; else they are 0.
    """
    with _counting(network, autocast) as fake:
        one = _count(fake, lambda net: call(net, 1), flops)
        two = _count(fake, lambda net: call(net, 2), flops)
    checkpointed = _line(one.checkpointed, two.checkpointed) if one.inside else None
    return _line(one, two), checkpointed


def training_peak(network: nn.Module, call: Call, autocast: torch.dtype | None = None) -> int:
    """Bytes T(1) of one sample's call with its backward, in less than half the time of :func:`footprints`;
    any call of n samples takes at most n T(1)."""
    with _counting(network, autocast) as fake, LiveBytes() as live:
        call(fake, 1).float().sum().backward()
    return live.peak


@contextlib.contextmanager
def _counting(network: nn.Module, autocast: torch.dtype | None) -> Iterator[nn.Module]:
    """A block with a copy of the network without memory, which keeps no gradients."""
    first = next(network.parameters())
    mode = first.fake_mode if isinstance(first, FakeTensor) else FakeTensorMode(allow_non_fake_inputs=True)
    if not isinstance(first, FakeTensor):
        with FakeCopyMode(mode):
            network = copy.deepcopy(network)
    with mode, _discarded_gradients(network), cuda_autocast(first.device.type, autocast):
        yield network


@dataclass(frozen=True)
class _Counted:
    """Of one call, with what its blocks keep inside."""

    inference: int
    kept: int
    training: int
    inference_flops: int
    training_flops: int
    inside: Sequence[int] = ()

    @property
    def checkpointed(self) -> _Counted:
        """The same with gradient checkpointing. (Fake tensors of a second call live longer than real ones, so
        that it cannot be counted itself.)"""
        total = sum(self.inside)
        return replace(
            self,
            kept=self.kept - total,
            training=self.training - total + max(self.inside),
            training_flops=self.training_flops + self.inference_flops,
        )


def _line(one: _Counted, two: _Counted) -> Footprint:
    inference, kept, training = (
        Bytes(2 * a - b, b - a)
        for a, b in ((one.inference, two.inference), (one.kept, two.kept), (one.training, two.training))
    )
    flops = two.inference_flops - one.inference_flops, two.training_flops - one.training_flops
    return Footprint(inference, kept, training, *flops)


def _count(network: nn.Module, call: Callable[[nn.Module], Tensor], flops: bool) -> _Counted:
    forward, both = (_flop_counter() if flops else None for _ in range(2))
    with LiveBytes() as inference, forward or contextlib.nullcontext(), torch.no_grad():
        call(network)
    with (
        LiveBytes() as training,
        both or contextlib.nullcontext(),
        _watched_blocks(network, training) as inside,
    ):
        output = call(network)
        kept = training.live
        output.float().sum().backward()
    once, twice = (counter.get_total_flops() if counter else 0 for counter in (forward, both))
    return _Counted(inference.peak, kept, training.peak, once, twice, inside)


@contextlib.contextmanager
def _watched_blocks(network: nn.Module, live: LiveBytes) -> Iterator[list[int]]:
    """A block in which every part of the network that could be checkpointed adds what it keeps beside its
    output."""
    inside: list[int] = []

    def watched(block: Callable[..., Any], *inputs: Any) -> Any:
        before = live.live
        output = block(*inputs)
        outside = sum(storage.nbytes() for storage in storages(output).values())
        inside.append(live.live - before - outside)
        return output

    models = [m for m in network.modules() if getattr(m, "_supports_gradient_checkpointing", False)]
    before = [model.is_gradient_checkpointing for model in models]
    for model in models:
        model.enable_gradient_checkpointing(watched)  # type: ignore[operator]
    try:
        yield inside
    finally:
        for model, on in zip(models, before, strict=True):
            restore: Any = model.enable_gradient_checkpointing if on else model.disable_gradient_checkpointing
            restore()


@contextlib.contextmanager
def cuda_autocast(device: str, dtype: torch.dtype | None) -> Iterator[None]:
    """Autocast to a type, without a cache; on a CPU with normalisations in float32, as CUDA has them.

    Source: PyTorch's list "CUDA Ops that can autocast to float32".
    """
    if dtype is None:
        yield
        return
    with torch.autocast(device, dtype, cache_enabled=False), contextlib.ExitStack() as stack:
        if device == "cpu":  # no mode of torch's would also see what a checkpointed block computes again
            for name in ("group_norm", "layer_norm"):
                stack.enter_context(patch.object(F, name, _in_float32(getattr(F, name))))
        yield


def _in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def cast(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) else value

    def computed(*args: Any, **kwargs: Any) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return function(*map(cast, args), **{key: cast(value) for key, value in kwargs.items()})

    return computed


@contextlib.contextmanager
def _discarded_gradients(network: nn.Module) -> Iterator[None]:
    """A block in which a parameter's gradient is dropped as soon as it is there: it counts elsewhere."""

    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    hooks = [p.register_post_accumulate_grad_hook(drop) for p in network.parameters() if p.requires_grad]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operations make in a block: those alive now, and their peak. What shares
    memory with what was there before is not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._made: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        given = storages((args, kwargs))
        for key, storage in storages(output).items():
            if key not in given and key not in self._made:
                self._note(key, storage)
        return output

    def _note(self, key: int, storage: Any) -> None:
        size = storage.nbytes()

        def gone(_: object) -> None:
            self.live -= size
            del self._made[key]

        self._made[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


def storages(tree: Any) -> dict[int, Any]:
    """Of all tensors in lists, tuples and dictionaries, each once, by its identity."""
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return {id(storage): storage for storage in (tensor.untyped_storage() for tensor in tensors)}


def _flop_counter() -> FlopCounterMode:
    """Torch's, which does not know the CPU's kernel of attention."""

    def forward(query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(
        gradient: Any, query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **options: Any
    ) -> int:
        return sdpa_backward_flop_count(gradient, query, key, value)

    aten = torch.ops.aten
    attention = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    return FlopCounterMode(display=False, custom_mapping=attention)


def parameter_count(parameters: Iterable[Tensor]) -> int:
    """Numbers in tensors."""
    return sum(p.numel() for p in parameters)


def adapter_count(layers: Iterable[nn.Module], rank: int) -> int:
    """Parameters of low-rank adapters: Σ r (k n_in + n_out) over layers W [n_out, n_in, …] of k = 1 entries
    per input (linear), or of the kernel's (convolutions).

    Raises:
        TypeError: a layer that is neither linear nor a convolution.
    """
    total = 0
    for layer in layers:
        if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            raise TypeError(f"{type(layer).__name__} is neither linear nor a convolution")
        weight = layer.weight
        total += rank * (weight[0].numel() + weight.shape[0])
    return total
