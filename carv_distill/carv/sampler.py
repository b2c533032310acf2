"""Draws of noise levels and noises for R upstream samples, K draws each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .couplings import NOISES
from .proposal import Proposal
from .random_numbers import Uniforms, draw_noise
from .strategies import STRATEGIES


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

    def row(self, number: int) -> Draws:
        """The K draws of one upstream sample, u and weight [K], eps [K, *shape]."""
        return Draws(self.u[number], self.weight[number], self.eps[number])


@dataclass(frozen=True)
class NoiseLevelSampler:
    """Draws u = Q⁻¹(v) with weight p/q; the strategy says how the R·K probabilities v are spread.

    One of an upstream sample's K probabilities, picked at random, is uniform on [0, 1) given x, so the mean
    over them is unbiased (strategies of a batch need their `shared` stream for it over several ranks, see
    :meth:`draw`).

    Args:
        proposal: density q of the noise levels.
        strategy: one of :data:`STRATEGIES`.
        noise: coupling of the ε of one upstream sample, one of :data:`NOISES`.

    Raises:
        ValueError: an unknown strategy or noise.
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
            dtype: of the noises, and of u and ω, which are float32 at least.
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

        Raises:
            ValueError: R or K below 1, a K that the strategy does not allow, or a rank outside
                0 … world_size − 1.
        """
        if upstream < 1 or draws < 1:
            raise ValueError(f"upstream and draws must be at least 1, found {upstream} and {draws}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in 0 … {world_size - 1}, found {rank}")
        strategy = STRATEGIES[self.strategy]
        if not strategy.allows(draws):
            raise ValueError(f"{strategy.name} draws must be even in number, found {draws}")
        device = generator.device if generator is not None else torch.device("cpu")
        # Where there is float64 (all but Apple's GPUs), v is drawn in it: float32 has only 2^24 values,
        # too few for bins of little mass, whose large weights then bias the estimate.
        precise = dtype if device.type == "mps" else torch.float64
        numbers = Uniforms(upstream, draws, rank, world_size, generator, shared, device, precise)
        return self.proposal.sample(strategy.probabilities(numbers), dtype)
