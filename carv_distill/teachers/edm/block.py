"""The residual block that all EDM networks are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carv_distill.teachers.float32 import at_least_float32, without_autocast

from .layers import Direction, Resample, ResamplingConv2d, group_norm


@dataclass(frozen=True)
class BlockStyle:
    """What the blocks of one network have in common.

    Attributes:
        embedding: channels of the embedding of noise level and label.
        dropout: before a block's second convolution, in training mode only.
        adaptive_scale: the embedding scales and shifts after the second norm; else it is added before it.
        project_skip: a resampled skip has a 1×1 convolution even where the channels stay.
        skip_scale: factor of each sum of a branch and its skip.
        eps: of the group norms.
        head_channels: of attention; None is one head.
        taps: of the resampling filter.
    """

    embedding: int
    dropout: float
    adaptive_scale: bool
    project_skip: bool
    skip_scale: float
    eps: float
    head_channels: int | None
    taps: Sequence[float] = (1, 1)


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
        found = self.qkv(self.norm2(x)).unflatten(1, (self.heads, -1, 3)).flatten(4).movedim(3, 0)
        q, k, v = found.transpose(-1, -2).to(at_least_float32(found.dtype))
        with without_autocast(x):
            a = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        return self.proj(a.reshape(x.shape).to(found.dtype))


def _convolution(
    channels_in: int, channels_out: int, kernel: int, direction: Direction | None, taps: Sequence[float]
) -> nn.Conv2d:
    if direction is None:
        return nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2)
    return ResamplingConv2d(channels_in, channels_out, kernel, direction, taps)


def weighted_layers(network: nn.Module) -> list[tuple[str, torch.nn.Linear | torch.nn.Conv2d]]:
    """The layers to initialise, with the last part of their names."""
    return [
        (name.split(".")[-1], layer)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
