"""A network for the time of some backward passes: whose gradients are taken where they arrive, and whose
activations are kept or computed again. Afterwards it is as it was, whatever happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from carv_distill.errors import UserError

Receive = Callable[[str, Tensor], None]


@contextmanager
def arriving_gradients(
    network: nn.Module, chosen: Mapping[str, nn.Parameter], receive: Receive
) -> Iterator[None]:
    """A block in which every backward hands each gradient, as soon as it is complete, to `receive` by its
    parameter's name, and keeps none.

    Only the chosen parameters require a gradient meanwhile; flags, hooks and gradients that the network's
    parameters had before are theirs again afterwards.
    """

    def hook(name: str) -> Callable[[Tensor], None]:
        def take(parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            assert gradient is not None
            receive(name, gradient)

        return take

    # an adapter's parameters may be no part of the tree of the network that they change
    everything = {id(p): p for p in (*network.parameters(), *chosen.values())}.values()
    before = [(p, p.requires_grad, p.grad) for p in everything]
    handles = []
    try:
        for p in everything:
            p.grad = None
            p.requires_grad_(False)
        for name, p in chosen.items():
            p.requires_grad_(True)
            handles.append(p.register_post_accumulate_grad_hook(hook(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for p, required, gradient in before:
            p.requires_grad_(required)
            p.grad = gradient


def checkpointable(network: nn.Module) -> list[ModelMixin]:
    """The diffusers models in a network whose blocks can be checkpointed.

    Raises:
        UserError: there are none.
    """
    models = [m for m in network.modules() if isinstance(m, ModelMixin)]
    able = [m for m in models if m._supports_gradient_checkpointing]
    if not able:
        kind = type(models[0]).__name__ if models else type(network).__name__
        raise UserError(
            f"--gradient-checkpointing: {kind} has no blocks for it; leave it out, or try --chunk 1"
        )
    return able


@contextmanager
def checkpointed(models: list[ModelMixin]) -> Iterator[None]:
    """A block in which these models keep no activations inside their blocks; one that keeps none anyway is
    left alone."""
    keeping = [model for model in models if not model.is_gradient_checkpointing]
    try:
        for model in keeping:
            model.enable_gradient_checkpointing()
        yield
    finally:
        for model in keeping:
            model.disable_gradient_checkpointing()


@contextmanager
def nothing_random(device: torch.device) -> Iterator[None]:
    """A block whose end refuses what drew from torch's own generators: it would be of no draw.

    Raises:
        ValueError: something did, as dropout does in training mode.
    """
    before = _states(device)
    yield
    if not all(map(torch.equal, before, _states(device))):
        raise ValueError("the network draws random numbers of its own, as dropout does before eval()")


def _states(device: torch.device) -> list[Tensor]:
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *cuda]
