"""One frozen network for a teacher and all that begins as it: low-rank adapters over it, by peft.

    shared = SharedNetwork(teacher.network, options, ("student", "average", "fake"), seed, "dmd.adapters")
    teacher = shared.view(None)          # the network as it came; it alone registers the frozen weights
    student = shared.view("student")     # F(x, c_noise, cond) with that adapter; its parameters are A and B
    average = shared.view("average").requires_grad_(False)

Each view is a raw network to its callers, and all of them may be used in any order between the forward and
the backward of one. Of peft only layers and names of weights are taken, as what it does beyond them goes
wrong in silence here:

- `set_adapter` changes `requires_grad`, and so drops the gradients of a graph that waits for its backward.
  Here all layers read one list of active adapters, which a view fills for the time of its call.
- Checkpointed blocks are computed again under whatever adapter is then active: see
  :meth:`SharedNetwork.enable_gradient_checkpointing`, which is the only way to turn it on.
- Adapters of a half-precision layer are made in half precision: here they are float32 at least, so the frozen
  weights must have their precision *before* they are shared, and nothing may cast the network afterwards.
- A base in its place among the parameters that learn: `view(name).parameters()` are that adapter's alone.
- New layers draw from the global random state: here the weights come from a stream of their own.

Networks are in eval mode, where dropout does nothing. peft multiplies the number of modules by five, so a raw
network should not ask its model for `dtype`, which walks them all, at every call.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor, nn
from torch.nn import Parameter
from torch.utils.checkpoint import checkpoint

from carv_distill.carv import stream
from carv_distill.command_line import missing
from carv_distill.errors import UserError

from .low_rank import PROJECTIONS, LowRankOptions
from .precision import at_least_float32


class SharedNetwork:
    """A frozen network W and adapters that share it: y = W x + b + (α/r) B A x in each adapted layer.

    A ~ U(−1/√n, 1/√n) for n inputs, the same for every adapter, and B = 0: all begin as the teacher, and a
    student's average as the student. The network itself is changed; it stays in eval mode.

    Args:
        network: F(x, c_noise, cond), a module with a diffusers model in it, in its final precision.
        options: rank, α and the layers.
        adapters: their names.
        seed: of the weights A.
        key: of the options, as messages begin.

    Raises:
        UserError: peft is not installed; patterns match no layer.
    """

    def __init__(
        self, network: nn.Module, options: LowRankOptions, adapters: Sequence[str], seed: int, key: str
    ) -> None:
        self.network = network.requires_grad_(False).eval()
        self.model_path, self.model = _diffusers_model(network)
        self._active: list[str] = []
        names = matching_layers(self.model, options.targets, key)
        self.layers = _inject(self.model, names, options, adapters, key)
        """peft's layers by their names in the diffusers model."""
        for layer in self.layers.values():
            # peft has no way to switch that leaves requires_grad alone: the one place that sets its attribute
            layer._active_adapter = self._active
        self._trees = {adapter: self._fill(adapter, stream(seed, "adapters")) for adapter in adapters}
        if self.model.is_gradient_checkpointing:
            self.enable_gradient_checkpointing()

    def _fill(self, adapter: str, generator: torch.Generator) -> nn.Module:
        """Gives an adapter its weights; they in a tree by peft's own names, `<layer>.lora_A.weight`."""
        tree = nn.Module()
        for name, layer in self.layers.items():
            weight = layer.get_base_layer().weight
            for part, module in (("lora_A", layer.lora_A[adapter]), ("lora_B", layer.lora_B[adapter])):
                values = torch.zeros(module.weight.shape, dtype=at_least_float32(weight.dtype))
                if part == "lora_A":
                    bound = values[0].numel() ** -0.5
                    values.uniform_(-bound, bound, generator=generator)
                module.weight = Parameter(values.to(weight.device))
                _submodule(tree, name).add_module(part, module)
        return tree

    def view(self, adapter: str | None) -> AdapterView:
        """The network with an adapter, or with none: the teacher."""
        return AdapterView(self, adapter)

    def tree(self, adapter: str) -> nn.Module:
        """An adapter's weights alone, as a module; its state has peft's keys."""
        return self._trees[adapter]

    def parameters(self, adapter: str) -> list[Parameter]:
        """An adapter's weights A, B layer by layer, in the network's order."""
        return list(self._trees[adapter].parameters())

    def all_parameters(self) -> list[Parameter]:
        """The weights of all adapters."""
        return [p for adapter in self._trees for p in self.parameters(adapter)]

    @contextmanager
    def active(self, adapter: str | None) -> Iterator[None]:
        """A block in which the network computes with this adapter; the cost does not depend on the layers."""
        before = self._active.copy()
        self._active[:] = [] if adapter is None else [adapter]
        try:
            yield
        finally:
            self._active[:] = before

    def enable_gradient_checkpointing(self) -> None:
        """Keeps no activations inside the blocks; a backward computes each again, with the adapter of its
        forward.

        Raises:
            UserError: the network's class has no blocks for it.
        """
        if not self.model._supports_gradient_checkpointing:
            raise UserError(f"gradient checkpointing: diffusers' {type(self.model).__name__} has none")
        self.model.enable_gradient_checkpointing(self._checkpointed)

    def _checkpointed(self, block: nn.Module, *inputs: Any) -> Any:
        """A block's outputs; the signature is that of diffusers."""
        adapter = next(iter(self._active), None)

        def run(*inputs: Any) -> Any:
            with self.active(adapter):
                return block(*inputs)

        return checkpoint(run, *inputs, use_reentrant=False)

    def merged_state(self, adapter: str | None, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """W + (α/r) B A under the network's own names, as it would have been trained as a whole; copies on
        the CPU.

        The sum is taken in the adapters' precision. The network's device needs room for one layer's B A.

        Args:
            dtype: of all floating tensors; None: float32 at least, as bfloat16 rounds much of B A away.
        """
        adapted = {f"{self.model_path}{name}.weight": layer for name, layer in self.layers.items()}
        state: dict[str, Tensor] = {}
        for key, value in self.network.state_dict().items():
            if ".lora_" in key:
                continue
            name, whole = key.replace(".base_layer.", "."), value.cpu()
            if adapter is not None and name in adapted:
                delta = adapted[name].get_delta_weight(adapter).detach().cpu()
                whole = whole.to(delta.dtype) + delta
            wanted = dtype or at_least_float32(value.dtype)
            state[name] = whole.to(wanted if value.is_floating_point() else value.dtype, copy=True)
        return state

    def merged(self, adapter: str | None, dtype: torch.dtype | None = None) -> nn.Module:
        """An independent copy of the network, on the CPU, with an adapter's weights merged into its own and
        without any trace of peft: what a complete export saves. For `dtype` see :meth:`merged_state`."""
        memory = {id(p): p for p in self.network.parameters()}
        network = copy.deepcopy(self.network, memory | {id(b): b.cpu() for b in self.network.buffers()})
        _, model = _diffusers_model(network)
        for name in self.layers:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, model.get_submodule(name).base_layer)
        del model.peft_config
        if model.is_gradient_checkpointing:
            model.enable_gradient_checkpointing()  # by diffusers' own function: ours refers to the adapters
        network.load_state_dict(self.merged_state(adapter, dtype), assign=True)
        return network


class AdapterView(nn.Module):
    """F(x, c_noise, cond) of a :class:`SharedNetwork` with one of its adapters, or as it came.

    As a module it has the adapter's parameters only; without an adapter it has the whole network, whose
    state holds all adapters too. Whatever else is asked of it the network answers, `save` and
    `trainable_copy` for a merged copy. A deep copy of a view copies the network with all adapters.
    """

    def __init__(self, shared: SharedNetwork, adapter: str | None) -> None:
        super().__init__()
        self.shared, self.name = shared, adapter
        if adapter is None:
            self.base = shared.network
        else:
            self.adapter = shared.tree(adapter)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Any) -> Tensor:
        """x [n, …], c_noise [n], a condition of n rows → [n, …]."""
        with self.shared.active(self.name):
            result: Tensor = self.shared.network(x, c_noise, cond)
            return result

    def encoder(self, x: Tensor, c_noise: Tensor, cond: Any) -> list[Tensor]:
        """The network's features on the way to F, with the adapter."""
        with self.shared.active(self.name):
            features: list[Tensor] = self.shared.network.encoder(x, c_noise, cond)  # type: ignore[operator]
            return features

    def trainable_copy(self) -> nn.Module:
        """An independent network on the CPU, without adapters, that starts here."""
        network: nn.Module = self.shared.merged(self.name).trainable_copy()  # type: ignore[operator]
        return network

    def save(self, folder: Path) -> None:
        """The merged network, as the network saves itself."""
        self.shared.merged(self.name).save(folder)  # type: ignore[operator]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "shared" not in self.__dict__:  # while it is copied
                raise
            return getattr(self.shared.network, name)


def whole_network(network: nn.Module) -> nn.Module:
    """What holds a raw network's parameters: what a view is of, else the network itself."""
    return network.shared.network if isinstance(network, AdapterView) else network


def matching_layers(model: nn.Module, patterns: Sequence[str], key: str) -> list[str]:
    """Names of the linear and convolutional layers that a pattern matches, in the network's order.

    A pattern is the end of a name, from a dot on, as peft and diffusers have it; * stands for anything.

    Raises:
        UserError: no layer matches, or none a pattern that is not among the defaults; with names that would.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    by_pattern = {p: [name for name in names if fnmatchcase(f".{name}", f"*.{p}")] for p in patterns}
    wrong = [p for p, matched in by_pattern.items() if not matched and p not in PROJECTIONS]
    if wrong or not any(by_pattern.values()):
        given = list(wrong or patterns)
        ends = list(dict.fromkeys(_end(name) for name in names))
        known = get_close_matches(given[0] if given else "", ends, n=8, cutoff=0)
        raise UserError(
            f"{key}.targets: {', '.join(map(repr, given)) or 'an empty list'} matches no linear or "
            f"convolutional layer of this {type(model).__name__}; of {len(ends)} names that do, the nearest "
            f"are {', '.join(known)}"
        )
    matched = {name for group in by_pattern.values() for name in group}
    return [name for name in names if name in matched]


def _end(name: str) -> str:
    """The last part of a name that says something: `to_q`, but `to_out.0`."""
    match = re.search(r"[^.]*[^.\d][^.]*(\.\d+)*$", name)
    return match[0] if match else name


def _diffusers_model(network: nn.Module) -> tuple[str, ModelMixin]:
    """The outermost diffusers model in a network, after the path to it, with a dot at its end."""
    for name, module in network.named_modules():
        if isinstance(module, ModelMixin):
            return f"{name}." if name else "", module
    raise ValueError(f"there is no diffusers model in a {type(network).__name__}")


def _inject(
    model: nn.Module, names: Iterable[str], options: LowRankOptions, adapters: Sequence[str], key: str
) -> dict[str, Any]:
    """Puts peft's layers in the place of those named, with adapters that have no memory yet."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer
    except ModuleNotFoundError as error:
        raise UserError(f"{key}: low-rank adapters: {missing(error)}") from error

    exactly = "|".join(map(re.escape, names))  # peft takes a text as a pattern of whole names
    for adapter in adapters:
        config = LoraConfig(
            r=options.rank, lora_alpha=options.alpha or options.rank, target_modules=exactly, bias="none"
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            inject_adapter_in_model(config, model, adapter, low_cpu_mem_usage=True)
    model.eval()
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _submodule(tree: nn.Module, name: str) -> nn.Module:
    """The module of that name with dots, made where there is none."""
    for part in name.split("."):
        if part not in tree._modules:
            tree.add_module(part, nn.Module())
        tree = tree.get_submodule(part)
    return tree
