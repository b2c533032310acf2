"""Layers of the EDM networks: resampling convolutions, embeddings of the noise level, the residual block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carv_distill.teachers.precision import Float32GroupNorm, at_least_float32, without_autocast

Direction = Literal["up", "down"]


def group_norm(channels: int, eps: float) -> Float32GroupNorm:
    """Groups of at least four channels, 32 of them at most."""
    return Float32GroupNorm(min(32, channels // 4), channels, eps)


def separable_filter(taps: Sequence[float]) -> Tensor:
    """f fᵀ/(Σ f)² as a convolution's weight, [1, 1, k, k]."""
    f = torch.tensor(taps, dtype=torch.float32)
    return torch.outer(f, f)[None, None] / f.sum().square()


def resample(x: Tensor, kernel: Tensor, direction: Direction, extra: int = 0) -> Tensor:
    """Halves or doubles the sides of x [n, C, h, w] by one filter [1, 1, k, k] for all channels, with `extra`
    zeros around x beyond what the filter needs."""
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, 1, -1, -1)
    padding = (kernel.shape[-1] - 1) // 2 + extra
    if direction == "up":  # zeros between the pixels: a quarter of the mass of each is left
        return F.conv_transpose2d(x, 4 * weight, stride=2, padding=padding, groups=channels)
    return F.conv2d(x, weight, stride=2, padding=padding, groups=channels)


class Resample(nn.Module):
    """Resampling alone: [n, C, h, w] → [n, C, 2h, 2w] or [n, C, h/2, w/2]."""

    resample_filter: Tensor

    def __init__(self, direction: Direction, taps: Sequence[float]) -> None:
        super().__init__()
        self.direction: Direction = direction
        self.register_buffer("resample_filter", separable_filter(taps))

    def forward(self, x: Tensor) -> Tensor:
        return resample(x, self.resample_filter, self.direction)


class ResamplingConv2d(nn.Conv2d):
    """Resampling, then a convolution that keeps the size; or, with `convolve_first`, the other way round, the
    picture padded once for both."""

    resample_filter: Tensor

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        direction: Direction,
        taps: Sequence[float],
        convolve_first: bool = False,
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, padding=kernel // 2)
        self.direction: Direction = direction
        self.convolve_first = convolve_first
        self.register_buffer("resample_filter", separable_filter(taps))

    def forward(self, input: Tensor) -> Tensor:
        f = self.resample_filter
        if not self.convolve_first:
            return super().forward(resample(input, f, self.direction))
        reach = (f.shape[-1] - 1) // 2
        wide = F.conv2d(input, self.weight, padding=self.kernel_size[0] // 2 + reach)
        out = resample(wide, f, self.direction, -reach)
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)


class PositionalEmbedding(nn.Module):
    """[cos ω_i c, sin ω_i c], ω_i = 10000^{−i/m} for i = 0 … C/2 − 1: c [n] → [n, C].

    m is C/2, or C/2 − 1 with `endpoint`, where the last ω is 1/10000.

    Source: Vaswani et al. 2017, section 3.5; Song et al. 2021 with the end point.
    """

    def __init__(self, channels: int, endpoint: bool) -> None:
        super().__init__()
        self.pairs, self.endpoint = channels // 2, endpoint

    def forward(self, c: Tensor) -> Tensor:
        place = torch.arange(self.pairs, dtype=torch.float32, device=c.device) / (self.pairs - self.endpoint)
        angle = torch.outer(c, (1e-4**place).to(c.dtype))
        return torch.cat([angle.cos(), angle.sin()], 1)


class FourierEmbedding(nn.Module):
    """[cos 2π f_i c, sin 2π f_i c] with fixed f_i ~ N(0, 16²): c [n] → [n, C].

    Source: Tancik et al. 2020; Song et al. 2021, appendix H.
    """

    freqs: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(channels // 2))

    def forward(self, c: Tensor) -> Tensor:
        angle = torch.outer(c, (2 * math.pi * self.freqs).to(c.dtype))
        return torch.cat([angle.cos(), angle.sin()], 1)


@dataclass(frozen=True)
class BlockStyle:
    """What the blocks of one network have in common."""

    embedding: int
    """Channels of the embedding of noise level and label."""
    dropout: float
    """Before a block's second convolution, in training mode only."""
    adaptive_scale: bool
    """The embedding scales and shifts after the second norm; else it is added before it."""
    project_skip: bool
    """A resampled skip has a 1×1 convolution even where the channels stay."""
    skip_scale: float
    """Factor of each sum of a branch and its skip."""
    eps: float
    """Of the group norms."""
    head_channels: int | None
    """Of attention; None is one head."""
    taps: Sequence[float] = (1, 1)
    """Of the resampling filter."""


class UNetBlock(nn.Module):
    """s (x' + conv(silu(norm(conv(silu(norm x)) ⊕ e)))), then s (· + attention) where there is one.

    x [n, C, h, w] and e [n, E] → [n, C', h', w'], with x' the resampled, projected x where needed.

    Source: Karras et al. 2022 (EDM), appendix F; Dhariwal & Nichol 2021, section 3.1 (adaptive norm).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        style: BlockStyle,
        attention: bool = False,
        direction: Direction | None = None,
    ) -> None:
        super().__init__()
        self.style = style
        self.norm0 = group_norm(channels_in, style.eps)
        self.conv0 = _convolution(channels_in, channels_out, 3, direction, style.taps)
        self.affine = nn.Linear(style.embedding, channels_out * (2 if style.adaptive_scale else 1))
        self.norm1 = group_norm(channels_out, style.eps)
        self.conv1 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip: nn.Module | None = None
        if channels_in != channels_out or (direction and style.project_skip):
            self.skip = _convolution(channels_in, channels_out, 1, direction, style.taps)
        elif direction:
            self.skip = Resample(direction, style.taps)
        self.heads = 0
        if attention:
            self.heads = channels_out // style.head_channels if style.head_channels else 1
            self.norm2 = group_norm(channels_out, style.eps)
            self.qkv = nn.Conv2d(channels_out, 3 * channels_out, 1)
            self.proj = nn.Conv2d(channels_out, channels_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        style = self.style
        h = self.conv0(F.silu(self.norm0(x)))
        affine = self.affine(embedding)[:, :, None, None]
        if style.adaptive_scale:
            scale, shift = affine.chunk(2, 1)
            h = shift + self.norm1(h) * (scale + 1)
        else:
            h = self.norm1(h + affine)
        h = self.conv1(F.dropout(F.silu(h), style.dropout, self.training))
        out = (h + (x if self.skip is None else self.skip(x))) * style.skip_scale
        return (out + self._attention(out)) * style.skip_scale if self.heads else out

    def _attention(self, x: Tensor) -> Tensor:
        """softmax(qᵀk/√c) v over all places, each head on its own c channels."""
        # Of a head's 3c channels the neighbouring three are q, k and v of one.
        qkv = self.qkv(self.norm2(x)).unflatten(1, (self.heads, -1, 3)).flatten(4).movedim(3, 0)
        q, k, v = qkv.transpose(-1, -2).to(at_least_float32(qkv.dtype))
        with without_autocast(x):
            a = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        return self.proj(a.reshape(x.shape).to(qkv.dtype))


def _convolution(
    channels_in: int, channels_out: int, kernel: int, direction: Direction | None, taps: Sequence[float]
) -> nn.Conv2d:
    if direction is None:
        return nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2)
    return ResamplingConv2d(channels_in, channels_out, kernel, direction, taps)


def weighted_layers(network: nn.Module) -> list[tuple[str, nn.Linear | nn.Conv2d]]:
    """The layers to initialise, with the last part of their names."""
    return [
        (name.split(".")[-1], layer)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
