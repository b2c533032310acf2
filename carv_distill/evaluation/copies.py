"""Does a generator repeat the images that it learned from?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CHANCE = 0.05
"""Share of new images of the reference's own distribution that count as copies."""
EXPLAINED = (
    f"Copied: share nearer to an image of the reference than {100 * (1 - CHANCE):.0f} % of those are to any "
    f"other of them; {CHANCE:g} by chance, 1 where they are repeated."
)
"""Below a table."""
NAME = f"copied, {CHANCE:g} by chance"
"""On a card, where nothing explains it."""
ROUNDING = 1e-5
"""Of a distance beside the largest feature vector: several times that of a network in float32."""
ROWS = 1024
"""Whose distances to the whole reference are held at a time."""


def copied_share(generated: Tensor, reference: Tensor) -> float:
    """Share of generated images that are nearer to an image of the reference than 95 % of its own are.

    With d the distance of features to the nearest image of the reference, for one of its own to the nearest
    other one,

        copied = mean 1[d(x) ≤ q],    q = 5 % quantile of d over the reference.

    A new image of the reference's distribution is exchangeable with those of the reference, so that a perfect
    generator has 0.05 up to O(1/M), whatever distribution and features; one that repeats the reference has 1.
    Distances below the rounding of float32 features are 0: where more than 5 % of the reference's images are
    there twice, only such are copies.

    Args:
        generated: features [N, D], N ≥ 1.
        reference: features [M, D], M ≥ 2.

    Returns:
        0..1.
    """
    own = torch.cat([_nearest(reference, reference, start) for start in range(0, len(reference), ROWS)])
    q = own.kthvalue(math.ceil(CHANCE * len(reference))).values
    near = [_nearest(part, reference) for part in generated.split(ROWS)]
    return (torch.cat(near) <= q).double().mean().item()


def _nearest(images: Tensor, reference: Tensor, start: int | None = None) -> Tensor:
    """d of images, or of the reference's own from number `start` on."""
    if start is None:
        nearest = torch.cdist(images, reference).amin(1)
    else:
        distances = torch.cdist(images[start : start + ROWS], reference)
        distances.diagonal(start).fill_(math.inf)
        nearest = distances.amin(1)
    return nearest.where(nearest > ROUNDING * reference.norm(dim=1).max(), 0)
