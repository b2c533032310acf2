"""A network during backward passes, and after them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from carv_distill.attribution.gradients.hooks import (
    arriving_gradients,
    checkpointable,
    checkpointed,
    nothing_random,
)
from carv_distill.errors import UserError
from tests.helpers.tiny_unet import tiny_unet


def network() -> nn.Sequential:
    """Of two layers, one frozen, the other with a gradient and a hook of its own."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    layers[0].requires_grad_(False)
    layers[1].weight.grad = torch.full((2, 4), 7.0, dtype=torch.float64)
    return layers


def state(layers: nn.Module) -> list[Any]:
    hooks = [len(p._post_accumulate_grad_hooks or ()) for p in layers.parameters()]
    return [
        *((p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in layers.parameters()),
        hooks,
    ]


def test_gradients_arrive_and_none_stays() -> None:
    layers = network()
    before, arrived, alive = state(layers), {}, []
    chosen = {"w": layers[0].weight, "b": layers[1].bias}

    def receive(name: str, gradient: torch.Tensor) -> None:
        arrived[name] = gradient
        alive.append(sum(p.grad is not None for p in layers.parameters()))

    x = torch.randn(5, 3, dtype=torch.float64)
    with arriving_gradients(layers, chosen, receive):
        assert not layers[1].weight.requires_grad
        layers(x).square().sum().backward()
        assert all(p.grad is None for p in layers.parameters())
    assert alive == [0, 0]
    assert state(layers) == before
    layers.requires_grad_(True)
    exact = torch.autograd.grad(layers(x).square().sum(), list(chosen.values()))
    for found, expected in zip((arrived["w"], arrived["b"]), exact, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("where", ["receive", "block", "backward"])
def test_an_exception_leaves_the_network_as_it_was(where: str) -> None:
    layers = network()
    before = state(layers)

    def receive(name: str, gradient: torch.Tensor) -> None:
        if where == "receive":
            raise KeyError(name)

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            raise KeyError("backward")

    def run() -> None:
        with arriving_gradients(layers, dict(layers.named_parameters()), receive):
            middle = layers[0](torch.randn(5, 3, dtype=torch.float64))
            loss = layers[1](Broken.apply(middle) if where == "backward" else middle).sum()
            if where == "block":
                raise KeyError(where)
            loss.backward()

    with pytest.raises(KeyError):
        run()
    assert state(layers) == before


def test_checkpointing_is_on_in_the_block_alone() -> None:
    unet, already = tiny_unet(), tiny_unet()
    already.enable_gradient_checkpointing()
    own = already.mid_block._gradient_checkpointing_func
    both = nn.ModuleList([unet, already])

    def run() -> None:
        with checkpointed(checkpointable(both)):
            assert unet.is_gradient_checkpointing
            raise KeyError

    with pytest.raises(KeyError):
        run()
    assert not unet.is_gradient_checkpointing
    assert already.is_gradient_checkpointing
    assert already.mid_block._gradient_checkpointing_func is own
    with pytest.raises(UserError, match=r"^--gradient-checkpointing: Sequential has no blocks for it"):
        checkpointable(network())


def test_a_network_that_draws_is_refused() -> None:
    cpu = torch.device("cpu")
    with nothing_random(cpu):
        torch.rand(3, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match="random numbers of its own"), nothing_random(cpu):
        nn.Dropout(0.5)(torch.ones(3))
