"""Pictures beyond the data, for an autoencoder whose encoder can be trusted off the data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

COARSE = 4
"""Cells along one side of a random mask."""


def mixed(images: Tensor, g: torch.Generator) -> Tensor:
    """Each picture blended with another by a smooth random mask, under a random change of colours.

    Score distillation descends through the encoder's Jacobian from pictures that are no data yet. An encoder
    that knows clean solids alone maps garbage to good latents; one that must keep any smooth mixture of
    colours is close to invertible there.

    Args:
        images: [n, 3, S, S] in [−1, 1].

    Returns:
        [n, 3, S, S] in [−1, 1].
    """
    n, size = len(images), images.shape[-1]

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, device=images.device, dtype=images.dtype)

    def smooth(channels: int) -> Tensor:
        coarse = randn(n, channels, COARSE, COARSE)
        return F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)

    share = (2 * smooth(1)).sigmoid()
    other = images[torch.randperm(n, generator=g, device=images.device)]
    blend = share * images + (1 - share) * other
    turn = torch.linalg.qr(randn(n, 3, 3)).Q
    turned = torch.einsum("nij,njhw->nihw", turn, blend) + 0.4 * randn(n, 3, 1, 1) + 0.3 * smooth(3)
    # Two thirds of the batch stay data, so that data are kept best.
    kept = (torch.arange(n, device=images.device) % 3 > 0).view(-1, 1, 1, 1)
    return torch.where(kept, images, turned.clamp(-1, 1))
