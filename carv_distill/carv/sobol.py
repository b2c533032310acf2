"""Randomised Sobol points."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

BITS = 30


def shifted_sobol(
    jitter: Tensor, generator: torch.Generator | None, first: int = 0, digits: int = BITS
) -> Tensor:
    """Points first … first + n − 1 of the Sobol sequence under one random digital shift, [n, d] in [0, 1).

    Of the binary digits the first ones are those of the sequence, shifted; the jitter makes the rest, so that
    each point is uniform. n = 2^digits points have one in each of the 2^digits equal parts of every
    coordinate. With more digits than that, all points share their further ones: a function with period 1/n
    then sees one point only.

    Args:
        jitter: iid uniform in [0, 1), [n, d].
        generator: of the shift.
        digits: 1 … 30.

    Source: digital shifts: Owen, Monte Carlo theory, chapter 17.
    """
    count, dims = jitter.shape
    points = _points(first + count, dims, jitter.device)[first:] >> (BITS - digits)
    shift = torch.randint(2**digits, (dims,), generator=generator, device=jitter.device)
    return jitter.add(points ^ shift).div_(2**digits)


@lru_cache(maxsize=16)
def _points(count: int, dims: int, device: torch.device) -> Tensor:
    """The first points as integers, point · 2^30, [count, dims]."""
    points = torch.quasirandom.SobolEngine(dims).draw(count, dtype=torch.float64)
    return (points * 2**BITS).long().to(device)
