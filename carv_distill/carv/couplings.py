"""Couplings of the noises ε of one upstream sample's draws."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NOISES = ("iid", "antithetic", "zero_sum")


def draw_noise(
    upstream: int,
    draws: int,
    shape: Sequence[int],
    coupling: str,
    generator: torch.Generator | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Noises ε ~ N(0, I), shape [R, K, *shape]; each one is standard normal, whatever the coupling.

    - ``iid``: independent.
    - ``antithetic``: pairs (ε, −ε) at draws (2j, 2j+1), which stratified levels make neighbours in u. A
      Hermite component of degree m keeps the variance factor 1 + (−1)^m: odd parts vanish, even parts
      double. An odd K leaves its last draw unpaired.
    - ``zero_sum``: ε_k = √(K/(K−1)) (z_k − z̄), so that Σ_k ε_k = 0; factor 1 + (K−1)(−1/(K−1))^m. K = 1
      is iid.
    """
    pairs = (draws + 1) // 2 if coupling == "antithetic" else draws
    z = torch.randn(upstream, pairs, *shape, generator=generator, device=device, dtype=dtype)
    if coupling == "antithetic":
        return torch.stack([z, -z], 2).flatten(1, 2)[:, :draws]
    if coupling == "zero_sum" and draws > 1:
        return z.sub_(z.mean(1, keepdim=True)).mul_((draws / (draws - 1)) ** 0.5)
    return z
