"""Draws of noise levels and noises for R upstream samples, K draws each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .noise import NOISES, draw_noise
from .proposal import Proposal

STRATEGIES = ("iid", "stratified", "global", "systematic", "sobol")
_SOBOL_BITS = 30


@dataclass(frozen=True)
class Draws:
    """What one call of the sampler gives: K draws of each of R upstream samples."""

    u: Tensor
    """Place on the noise schedule, [R, K], in [0, 1)."""
    weight: Tensor
    """Importance weight ω = p/q of each draw, [R, K]; its expectation is the share of p where q > 0."""
    eps: Tensor
    """Noises, [R, K, *shape], each standard normal."""


@dataclass(frozen=True)
class NoiseLevelSampler:
    """Draws u = Q⁻¹(v) with weight p/q; the strategy says how the R·K probabilities v are spread.

    ============  ==========================================================================================
    iid           v ~ U[0, 1), independent
    stratified    v_rk = (k + U_rk)/K: the K draws of one upstream sample hit K strata once each
    global        v = (π(r, k) + U_rk)/(R·K) over a random permutation π: all draws of the batch, on all
                  ranks, hit R·K·world_size strata once each (the useful one at K = 1)
    systematic    v_rk = (k + U_r)/K: one shift for the K strata; fails on periodic integrands
    sobol         consecutive points of a one-dimensional Sobol sequence under a random digital shift
    ============  ==========================================================================================

    One of an upstream sample's K probabilities, picked at random, is uniform on [0, 1) given x, so the mean
    over them is unbiased (``global`` over several ranks needs their `shared` stream for it, see
    :meth:`draw`). A single v_rk of a given k need not be: stratified draw k lies in stratum k.

    Args:
        proposal: density q of the noise levels.
        strategy: one of the above.
        noise: coupling of the ε of one upstream sample: iid | antithetic | zero_sum.

    Raises:
        ValueError: an unknown strategy or noise.

    Source: arXiv 2605.21489, section 3; Sobol points and digital shifts: Owen, Monte Carlo theory, ch. 17.
    """

    proposal: Proposal
    strategy: str = "stratified"
    noise: str = "iid"

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}; found {self.strategy!r}")
        if self.noise not in NOISES:
            raise ValueError(f"noise must be one of {', '.join(NOISES)}; found {self.noise!r}")

    def draw(
        self,
        upstream: int,
        draws: int,
        shape: Sequence[int],
        generator: torch.Generator | None = None,
        rank: int = 0,
        world_size: int = 1,
        shared: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Draws:
        """Draws for this rank's R upstream samples, on the generator's device, without synchronising it.

        Args:
            upstream: R ≥ 1, upstream samples on this rank.
            draws: K ≥ 1, draws per upstream sample.
            shape: shape of one x (any length: images, latents, video latents).
            generator: this rank's own random stream.
            rank, world_size: this process among those that share the batch. A gradient accumulated over
                A parts counts as A ranks for each process.
            shared: a stream in the same state on every rank, from which ``global`` and ``sobol`` deal
                their points over the ranks; then each u follows q given its x. Without it and with
                world_size > 1, ``global`` deals the strata in fixed turns: still exactly one draw per
                stratum, but rank r only ever sees the strata r modulo world_size, so it is unbiased over
                x alone, as the upstream samples of all ranks have one distribution; ``sobol`` shifts
                each rank's points by itself: unbiased given x, stratified within a rank only.
            dtype: of the result, float32 or float64.

        Raises:
            ValueError: R or K below 1, or a rank outside 0 … world_size − 1.
        """
        if upstream < 1 or draws < 1:
            raise ValueError(f"upstream and draws must be at least 1, found {upstream} and {draws}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in 0 … {world_size - 1}, found {rank}")
        device = generator.device if generator is not None else torch.device("cpu")
        # Where there is float64 (all but Apple's GPUs), v is drawn in it: float32 has only 2^24 values,
        # too few for bins of little mass, whose large weights then bias the estimate.
        precise = dtype if device.type == "mps" else torch.float64
        v = self._probabilities(upstream, draws, generator, rank, world_size, shared, device, precise)
        u, weight = self.proposal.sample(v, dtype)
        eps = draw_noise(upstream, draws, shape, self.noise, generator, device, dtype)
        return Draws(u, weight, eps)

    def _probabilities(
        self,
        upstream: int,
        draws: int,
        generator: torch.Generator | None,
        rank: int,
        world_size: int,
        shared: torch.Generator | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Tensor:
        """v in [0, 1), shape [R, K]; for each r, uniform on average over k."""
        here = upstream * draws
        columns = 1 if self.strategy == "systematic" else draws
        jitter = torch.rand(upstream, columns, generator=generator, device=device, dtype=dtype)
        if self.strategy == "iid":
            return jitter
        if self.strategy in ("stratified", "systematic"):
            return jitter.add(torch.arange(draws, device=device)).div_(draws)
        dealer = shared if shared is not None else generator
        if self.strategy == "global":
            if shared is None:
                own = torch.randperm(here, generator=dealer, device=device)
                strata = own * world_size + rank
            else:
                deal = torch.randperm(here * world_size, generator=dealer, device=device)
                strata = deal[rank * here : (rank + 1) * here]
            return jitter.add_(strata.view(upstream, draws)).div_(here * world_size)
        # Points of the sequence are taken by rank, then by upstream sample: K = 2^m consecutive ones
        # stratify each sample, and all of them together stratify the batch.
        points = _sobol_points(here * world_size, device)[rank * here : (rank + 1) * here]
        shift = torch.randint(2**_SOBOL_BITS, (1,), generator=dealer, device=device)
        # The jitter below the last digit keeps v uniform and off 0 and 1.
        return jitter.add_((points ^ shift).view(upstream, draws)).div_(2**_SOBOL_BITS)


@lru_cache(maxsize=16)
def _sobol_points(count: int, device: torch.device) -> Tensor:
    """The first points of the one-dimensional Sobol sequence as integers, point · 2^30, shape [count]."""
    points = torch.quasirandom.SobolEngine(1).draw(count, dtype=torch.float64)[:, 0]
    return (points * 2**_SOBOL_BITS).long().to(device)
