"""Where the probabilities v of a batch's draws fall: the strategies of :class:`NoiseLevelSampler`."""

from __future__ import annotations

import torch
from torch import Tensor

from .sobol import shifted_sobol

STRATEGIES = ("iid", "stratified", "paired", "global", "nested", "latin_hypercube", "systematic", "sobol")


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
        paired            (j + U_rj)/(K/2) for k = 2j and 2j + 1
        systematic        (k + U_r)/K
        global            (π(r, k) + U_rk)/(n K)
        nested            (k + (π_k(r) + U_rk)/n)/K
        latin_hypercube   (π_k(r) + U_rk)/n
        sobol             digitally shifted Sobol points

    Args and conventions as for :meth:`NoiseLevelSampler.draw`.

    Raises:
        ValueError: pairs of an odd number of draws, above one.

    Source: stratified and Latin hypercube samples: Owen, Monte Carlo theory, chapters 8 and 10; Sobol points
    and digital shifts: chapter 17.
    """
    if strategy == "paired" and draws > 1:
        if draws % 2:
            raise ValueError(f"paired draws must be even in number, found {draws}")
        half = probabilities(
            "stratified", upstream, draws // 2, rank, world_size, generator, shared, device, dtype
        )
        return half.repeat_interleave(2, 1)
    columns = 1 if strategy == "systematic" else draws
    jitter = torch.rand(upstream, columns, generator=generator, device=device, dtype=dtype)
    if strategy == "iid":
        return jitter
    if strategy in ("stratified", "paired", "systematic"):
        return jitter.add(torch.arange(draws, device=device)).div_(draws)
    if strategy == "sobol":
        # By rank, then by upstream sample: K = 2^m consecutive points stratify each sample, all the batch.
        dealer = shared if shared is not None else generator
        return shifted_sobol(jitter.view(-1, 1), dealer, first=rank * jitter.numel()).view_as(jitter)
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
