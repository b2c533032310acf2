"""The picture of a render: what is random in it but not in the object.

A teacher of wild pictures knows objects before any background, in any colours. Where these are drawn anew for
every re-noising, not for every render, they are a part of the cheap draw: their share of the gradient's
variance falls with K. The gradient's mean is the same either way, as both are independent of the render.

This is compute reuse (arXiv 2605.21489, section 3) extended from noise to augmentation, which is not in the
paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations

import torch
from torch import Tensor

from carv_distill.carv import Residual
from carv_distill.geometry.backdrops import CHOICES, NOISES, backdrops

EXTRA = NOISES + 1
"""Channels of random numbers of a picture beside its noise: the backdrop's, and one of choices."""


@cache
def _orders(device: torch.device) -> Tensor:
    """All orders of three colours, [6, 3]: copied to a device once, as it waits for each copy."""
    return torch.tensor(list(permutations(range(3))), device=device)


@dataclass(frozen=True)
class Picture:
    """Pictures p [n, 3, s, s] in [−1, 1] of x = (C, o), colours times opacity and opacity, affine in x:

        p = 2 (±C_π + [o where −] + (1 − o) b) − 1,

    with a random background b, a random order π of the colours and, for half of them, their inverse o − C.
    """

    image: Tensor
    behind: Tensor
    """b in [0, 1]."""
    sign: Tensor
    """[n, 1, 1, 1]: 1, or −1 where the colours are inverted."""
    back: Tensor
    """int64 [n, 3]: the inverse of π."""

    def pulled(self, residual: Tensor) -> Tensor:
        """(∂p/∂x)ᵀ r of each picture: [n, 3, s, s] → [n, 4, s, s]."""
        r = 2 * residual
        colours = self.sign * _ordered(r, self.back)
        inverted = (1 - self.sign) / 2
        opacity = ((inverted - self.behind) * r).sum(1, keepdim=True)
        return torch.cat([colours, opacity], 1)


def compose(x: Tensor, extra: Tensor) -> Picture:
    """Pictures of x [n, 4, s, s] by standard normal numbers [n, 5, s, s], of which they are a function."""
    numbers = torch.special.ndtr(extra[:, NOISES].flatten(1)[:, : CHOICES + 2])
    behind = backdrops(extra[:, :NOISES], numbers[:, :CHOICES])
    order = _orders(x.device)[(6 * numbers[:, CHOICES]).long().clamp(max=5)]
    sign = torch.where(numbers[:, CHOICES + 1] < 0.5, 1.0, -1.0).to(x.dtype).view(-1, 1, 1, 1)
    colours, opacity = x[:, :3], x[:, 3:]
    shown = sign * _ordered(colours, order) + (1 - sign) / 2 * opacity
    return Picture(2 * (shown + (1 - opacity) * behind) - 1, behind, sign, order.argsort(1))


def composed(residual: Residual, extra: Tensor | None = None) -> Residual:
    """The residual of x by that of its pictures: (∂p/∂x)ᵀ r(p, u, ε).

    Args:
        residual: of pictures [n, 3, s, s].
        extra: random numbers of each render's picture, [R, 5, s, s]; None: a picture for every draw, whose ε
            then has :data:`EXTRA` more channels.
    """

    def of_x(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
        picture = compose(x, eps[:, 3:] if extra is None else extra[index])
        return picture.pulled(residual(picture.image, u, eps[:, :3], index))

    return of_x


def _ordered(channels: Tensor, order: Tensor) -> Tensor:
    """Channel i of each row is channel order[i] of what is given."""
    return channels.gather(1, order[:, :, None, None].expand_as(channels))
