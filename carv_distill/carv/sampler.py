"""Draws of noise levels and noises for R upstream samples, K draws each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .couplings import NOISES, draw_noise
from .proposal import Proposal
from .strategies import STRATEGIES, probabilities


@dataclass(frozen=True)
class Draws:
    """What one call of the sampler gives: K draws of each of R upstream samples."""

    u: Tensor
    """Place on the noise schedule, [R, K], in [0, 1)."""
    weight: Tensor
    """Importance weight ω = p/q of each draw, [R, K]; its expectation is the share of p where q > 0."""
    eps: Tensor
    """Noises, [R, K, *shape], each standard normal."""

    def __getitem__(self, part: slice) -> Draws:
        """The draws of some of the upstream samples."""
        return Draws(self.u[part], self.weight[part], self.eps[part])


@dataclass(frozen=True)
class NoiseLevelSampler:
    """Draws u = Q⁻¹(v) with weight p/q; the strategy says how the R·K probabilities v are spread.

    ===============  =======================================================================================
    iid              v ~ U[0, 1), independent
    stratified       v_rk = (k + U_rk)/K: the K draws of one upstream sample hit K strata once each
    paired           v_rk = (j + U_rj)/(K/2) for k = 2j and 2j + 1: K/2 strata, each level twice, so that
                     antithetic pairs differ in nothing but the sign; K even, or 1
    global           v = (π(r, k) + U_rk)/(R·K) over a random permutation π: all draws of the batch, on all
                     ranks, hit R·K·world_size strata once each (the useful one at K = 1)
    nested           v_rk = (k + (π_k(r) + U_rk)/R)/K with a permutation π_k of all ranks' samples for each k:
                     both at once, K strata per upstream sample and R·K·world_size over the batch. What
                     depends on u alone keeps 1/(R·world_size)² of stratified's variance
    latin_hypercube  v_rk = (π_k(r) + U_rk)/R: the k-th draws of all samples, on all ranks, hit
                     R·world_size strata once each, while the K draws of one sample are independent
    systematic       v_rk = (k + U_r)/K: one shift for the K strata; fails on periodic integrands
    sobol            consecutive points of a one-dimensional Sobol sequence under a random digital shift
    ===============  =======================================================================================

    One of an upstream sample's K probabilities, picked at random, is uniform on [0, 1) given x, so the mean
    over them is unbiased (``global``, ``nested`` and ``latin_hypercube`` over several ranks need their
    `shared` stream for it, see :meth:`draw`). A single v_rk of a given k need not be: stratified draw k lies
    in stratum k.

    Args:
        proposal: density q of the noise levels.
        strategy: one of the above.
        noise: coupling of the ε of one upstream sample: iid | antithetic | zero_sum.

    Raises:
        ValueError: an unknown strategy or noise.

    Source: arXiv 2605.21489, section 3; :func:`carv_distill.carv.strategies.probabilities` for the others.
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
            shared: a stream in the same state on every rank, from which ``global``, ``nested``,
                ``latin_hypercube`` and ``sobol`` deal their points over the ranks; then each u follows q
                given its x. Without it and with world_size > 1, the first three deal the strata in fixed
                turns: still exactly one draw per stratum, but rank r only ever sees the strata r modulo
                world_size, so they are unbiased over x alone, as the upstream samples of all ranks have
                one distribution; ``sobol`` shifts each rank's points by itself: unbiased given x,
                stratified within a rank only.
            dtype: of the result, float32 or float64.

        Raises:
            ValueError: R or K below 1, or a rank outside 0 … world_size − 1.
        """
        u, weight = self.levels(upstream, draws, generator, rank, world_size, shared, dtype)
        eps = draw_noise(upstream, draws, shape, self.noise, generator, u.device, dtype)
        return Draws(u, weight, eps)

    def levels(
        self,
        upstream: int,
        draws: int,
        generator: torch.Generator | None = None,
        rank: int = 0,
        world_size: int = 1,
        shared: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, Tensor]:
        """(u, ω) alone, [R, K] each: what :meth:`draw` gives from the same streams, without the noises.

        Args and errors as for :meth:`draw`.
        """
        if upstream < 1 or draws < 1:
            raise ValueError(f"upstream and draws must be at least 1, found {upstream} and {draws}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in 0 … {world_size - 1}, found {rank}")
        device = generator.device if generator is not None else torch.device("cpu")
        # Where there is float64 (all but Apple's GPUs), v is drawn in it: float32 has only 2^24 values,
        # too few for bins of little mass, whose large weights then bias the estimate.
        precise = dtype if device.type == "mps" else torch.float64
        v = probabilities(
            self.strategy, upstream, draws, rank, world_size, generator, shared, device, precise
        )
        return self.proposal.sample(v, dtype)
