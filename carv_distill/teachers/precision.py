"""Networks in half precision, and the layers that autocast leaves alone: rounding would lose their result.

DMD lives on differences of almost equal outputs, which bfloat16's eight bits of mantissa round away, and a
mean or a softmax over many half-precision numbers adds up its rounding errors.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import GaussianFourierProjection
from torch import Tensor, nn

from .condition import Cond

if TYPE_CHECKING:
    from .network import ImageNetwork


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Of frozen weights, by the names that options have."""


def frozen_precision(name: str, device: str) -> torch.dtype:
    """Of frozen weights, by an option's name; auto is float16 on CUDA and float32 elsewhere.

    float16 has three bits of mantissa more than bfloat16, which guidance, a large multiple of a difference
    of two predictions, makes matter.
    """
    if name == "auto":
        return torch.float16 if torch.device(device).type == "cuda" else torch.float32
    return PRECISIONS[name]


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """A block in which nothing is cast on x's device."""
    return torch.autocast(x.device.type, enabled=False)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """float32 for a half precision, else the precision itself."""
    return torch.promote_types(dtype, torch.float32)


class Float32Conv2d(nn.Conv2d):
    """A convolution in its weights' precision: [n, C, h, w] → [n, C', h', w']."""

    def forward(self, input: Tensor) -> Tensor:
        # Whatever comes in: CUDA's autocast runs the group norm before it in float32, the CPU's does not.
        with without_autocast(input):
            return super().forward(input.to(self.weight.dtype))


class Float32Linear(nn.Linear):
    """A linear layer in its weights' precision: [n, …, C] → [n, …, C']."""

    def forward(self, input: Tensor) -> Tensor:
        with without_autocast(input):
            return super().forward(input.to(self.weight.dtype))


def keep_float32(layer: nn.Module) -> None:
    """Makes a convolution or linear layer compute in float32 at least, whatever comes in.

    Raises:
        TypeError: another layer.
    """
    kinds = {nn.Conv2d: Float32Conv2d, nn.Linear: Float32Linear}
    if type(layer) in kinds.values():
        return
    if type(layer) not in kinds:
        raise TypeError(f"{type(layer).__name__} is neither a convolution nor linear")
    layer.__class__ = kinds[type(layer)]
    for parameter in layer.parameters():
        parameter.data = parameter.data.to(at_least_float32(parameter.dtype))


class Float32GroupNorm(nn.GroupNorm):
    """Group normalisation computed in float32 at least; the result has the weights' precision.

    Group g of C/G channels: y = w (x − mean_g)/√(var_g + eps) + b, [n, C, h, w] → the same.
    """

    def forward(self, input: Tensor) -> Tensor:
        dtype = at_least_float32(self.weight.dtype)
        with without_autocast(input):
            x, weight, bias = (t.to(dtype) for t in (input, self.weight, self.bias))
            return F.group_norm(x, self.num_groups, weight, bias, self.eps).to(self.weight.dtype)


class Bfloat16Network(nn.Module):
    """A frozen F(x, c_noise, cond) at half the memory: weights in bfloat16, computed under autocast.

    The network itself is changed. Frequencies of the noise level's embedding, as all buffers, stay in
    float32: of large phases little is left otherwise. So does the last convolution.
    """

    def __init__(self, network: ImageNetwork) -> None:
        super().__init__()
        for module in network.modules():
            if not isinstance(module, Float32Conv2d | GaussianFourierProjection):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.to(torch.bfloat16)
        self.network = network

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            return self.network(x, c_noise, cond)

    def encoder(self, x: Tensor, c_noise: Tensor, cond: Cond) -> list[Tensor]:
        """The encoder's features, as :class:`~.network.ImageNetwork` has them."""
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            return self.network.encoder(x, c_noise, cond)
