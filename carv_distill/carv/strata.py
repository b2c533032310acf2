"""Where the probabilities v of a batch's draws fall: the strategies of :class:`NoiseLevelSampler`."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

STRATEGIES = ("iid", "stratified", "global", "nested", "latin_hypercube", "systematic", "sobol")
_SOBOL_BITS = 30


def probabilities(
    strategy: str,
    upstream: int,
    draws: int,
    rank: int,
    world_size: int,
    generator: torch.Generator | None,
    shared: torch.Generator | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """v in [0, 1), shape [R, K]: of one upstream sample's K, one picked at random is uniform.

    With U_rk ~ U[0, 1) independent, n = R · world_size, and π, π_k random permutations that all ranks
    share (each rank r has its own part of them):

        iid               U_rk
        stratified        (k + U_rk)/K
        systematic        (k + U_r)/K
        global            (π(r, k) + U_rk)/(n K)
        nested            (k + (π_k(r) + U_rk)/n)/K
        latin_hypercube   (π_k(r) + U_rk)/n
        sobol             digitally shifted Sobol points

    Args and conventions as for :meth:`NoiseLevelSampler.draw`.

    Source: stratified and Latin hypercube samples: Owen, Monte Carlo theory, chapters 8 and 10; Sobol points
    and digital shifts: chapter 17.
    """
    columns = 1 if strategy == "systematic" else draws
    jitter = torch.rand(upstream, columns, generator=generator, device=device, dtype=dtype)
    if strategy == "iid":
        return jitter
    if strategy in ("stratified", "systematic"):
        return jitter.add(torch.arange(draws, device=device)).div_(draws)
    if strategy == "sobol":
        dealer = shared if shared is not None else generator
        return _sobol(jitter, rank, world_size, dealer)
    if strategy == "global":
        cells = _deal(1, upstream * draws, rank, world_size, generator, shared, device)
        return jitter.add_(cells.view(upstream, draws)).div_(upstream * draws * world_size)
    cells = _deal(draws, upstream, rank, world_size, generator, shared, device)
    strata = upstream * world_size
    if strategy == "nested":
        cells += torch.arange(0, draws * strata, strata, device=device)[:, None]
        strata *= draws
    return jitter.add_(cells.T).div_(strata)


def _deal(
    sets: int,
    here: int,
    rank: int,
    world_size: int,
    generator: torch.Generator | None,
    shared: torch.Generator | None,
    device: torch.device,
) -> Tensor:
    """This rank's part of `sets` independent permutations of 0 … here · world_size − 1, [sets, here].

    From a shared stream every rank sees the same permutations and takes its own slice: each entry is then
    uniform. Without one the numbers are dealt in turns, rank r getting those that are r modulo world_size.
    """
    if shared is None:
        return _permutations(sets, here, generator, device) * world_size + rank
    return _permutations(sets, here * world_size, shared, device)[:, rank * here : (rank + 1) * here]


def _permutations(sets: int, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Independent random permutations of 0 … count − 1, [sets, count]."""
    if device.type == "cpu" or sets == 1:
        out = torch.empty(sets, count, dtype=torch.long, device=device)
        for row in out:
            torch.randperm(count, generator=generator, device=device, out=row)
        return out
    return permutations_by_sorting(sets, count, generator, device)


def permutations_by_sorting(
    sets: int, count: int, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Independent random permutations of 0 … count − 1, [sets, count], by one sort of random keys.

    For a GPU, where a randperm each would be `sets` launches; of its 62-bit keys two hardly ever tie.
    """
    return torch.randint(2**62, (sets, count), generator=generator, device=device).argsort(1)


def _sobol(jitter: Tensor, rank: int, world_size: int, dealer: torch.Generator | None) -> Tensor:
    """Points of the sequence by rank, then by upstream sample: K = 2^m consecutive ones stratify each
    sample, and all of them together stratify the batch."""
    here, device = jitter.numel(), jitter.device
    points = _sobol_points(here * world_size, device)[rank * here : (rank + 1) * here]
    shift = torch.randint(2**_SOBOL_BITS, (1,), generator=dealer, device=device)
    # The jitter below the last digit keeps v uniform and off 0 and 1.
    return jitter.add_((points ^ shift).view_as(jitter)).div_(2**_SOBOL_BITS)


@lru_cache(maxsize=16)
def _sobol_points(count: int, device: torch.device) -> Tensor:
    """The first points of the one-dimensional Sobol sequence as integers, point · 2^30, shape [count]."""
    points = torch.quasirandom.SobolEngine(1).draw(count, dtype=torch.float64)[:, 0]
    return (points * 2**_SOBOL_BITS).long().to(device)
