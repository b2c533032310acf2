"""Parts of the EDM networks: resampling convolutions, embeddings of the noise level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carv_distill.teachers.float32 import Float32GroupNorm

Direction = Literal["up", "down"]


def group_norm(channels: int, eps: float) -> Float32GroupNorm:
    """Groups of at least four channels, 32 of them at most."""
    return Float32GroupNorm(min(32, channels // 4), channels, eps)


def separable_filter(taps: Sequence[float]) -> Tensor:
    """f fᵀ/(Σ f)² as a convolution's weight, [1, 1, k, k]."""
    f = torch.tensor(taps, dtype=torch.float32)
    return torch.outer(f, f)[None, None] / f.sum().square()


def resample(x: Tensor, kernel: Tensor, direction: Direction, extra: int = 0) -> Tensor:
    """Halves or doubles the sides of x [n, C, h, w] by one filter for all channels.

    Args:
        kernel: [1, 1, k, k], summing to one.
        extra: zeros around x beyond what the filter needs.
    """
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
    """Resampling, then a convolution that keeps the size.

    Args:
        direction, taps: of the resampling.
        convolve_first: the convolution comes before: the picture is padded once for both.
    """

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
