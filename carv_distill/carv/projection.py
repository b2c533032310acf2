"""A seeded random projection that keeps squared norms in expectation."""

from __future__ import annotations

import torch
from torch import Tensor

from .streams import stream

BLOCK = 1 << 22


class CountSketch:
    """S g ∈ ℝ^m of a vector g ∈ ℝ^d: (S g)_b = Σ_{i: h(i) = b} s(i) g_i, h uniform, s = ±1.

    E‖S g‖² = ‖g‖² and Var ‖S g‖² ≤ 2‖g‖⁴/m over the seeds, so every variance that is a trace survives, with
    one sketch for all replicates. What one sketch gets wrong, up to √(2/m) of the whole, is common to all
    replicates and in no interval. Buckets and signs are drawn again at each call, in blocks: memory is O(m).

    Args:
        size: m ≥ 1.
        seed: names the projection.

    Source: Charikar, Chen, Farach-Colton (2002); Weinberger et al. (2009), feature hashing.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        if size < 1:
            raise ValueError(f"a projection's size must be at least 1, found {size}")
        self.size, self.seed = size, seed

    def __call__(self, vector: Tensor) -> Tensor:
        """g [d] → S g [m], same type and device."""
        out = vector.new_zeros(self.size)
        for number, block in enumerate(vector.split(BLOCK)):
            g = stream(self.seed, "sketch", number, device=vector.device)
            code = torch.randint(2 * self.size, block.shape, generator=g, device=vector.device)
            out.index_add_(0, code >> 1, torch.where(code & 1 == 1, block, -block))
        return out
