"""The draws (u, ε) that all samples share, in groups."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from carv_distill.attribution.options import INDEPENDENT
from carv_distill.carv import Draws, NoiseLevelSampler, stream


def shared_draws(
    sampler: NoiseLevelSampler, draws: int, groups: int, shape: Sequence[int], seed: int
) -> Draws:
    """K draws as G independent sets of K/G, u and weight [G, K/G], eps [G, K/G, *shape], on the CPU.

    Each group is stratified (and its noises coupled) by itself, so that the groups are independent and
    identically distributed: what unbiased products and intervals need. A function of the seed.

    Raises:
        ValueError: K is not a multiple of G, or the strategy ties the groups together.
    """
    if groups < 1 or draws < 1 or draws % groups:
        raise ValueError(f"draws must be a multiple of groups, found {draws} draws in {groups} groups")
    if sampler.strategy not in INDEPENDENT:
        raise ValueError(
            f"strategy must be one of {', '.join(INDEPENDENT)}, whose groups are independent; found "
            f"{sampler.strategy!r}"
        )
    return sampler.draw(groups, draws // groups, shape, stream(seed, "attribution", "draws"))


def fixed_grid(draws: int, groups: int, shape: Sequence[int], seed: int) -> Draws:
    """Noise levels at the K/G midpoints u_k = (k + ½)/(K/G) of every group, with independent noises.

    No estimate of the mean over levels: its error at the midpoints stays, however many groups there are.
    For comparison, as it is common.

    Source: arXiv 2311.00500 (D-TRAK), section 4, timesteps at uniform distances.
    """
    if groups < 1 or draws < 1 or draws % groups:
        raise ValueError(f"draws must be a multiple of groups, found {draws} draws in {groups} groups")
    each = draws // groups
    u = ((torch.arange(each) + 0.5) / each).expand(groups, each)
    eps = torch.randn(groups, each, *shape, generator=stream(seed, "attribution", "grid"))
    return Draws(u, torch.ones_like(u), eps)
