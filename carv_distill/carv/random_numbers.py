"""The random numbers of a batch of draws: what strategies and couplings arrange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .couplings import NOISES
from .sobol import shifted_sobol


@dataclass(frozen=True)
class Uniforms:
    """Uniform numbers and permutations for R upstream samples × K draws on one of the ranks.

    Streams and ranks as for :meth:`NoiseLevelSampler.draw`.
    """

    upstream: int
    draws: int
    rank: int
    world_size: int
    generator: torch.Generator | None
    shared: torch.Generator | None
    device: torch.device
    dtype: torch.dtype

    def jitter(self, columns: int) -> Tensor:
        """Independent uniform numbers in [0, 1), [R, columns]."""
        return torch.rand(
            self.upstream, columns, generator=self.generator, device=self.device, dtype=self.dtype
        )

    def count(self, draws: int) -> Tensor:
        """0 … draws − 1."""
        return torch.arange(draws, device=self.device)

    def dealt(self, sets: int, here: int) -> Tensor:
        """This rank's part of `sets` independent permutations of 0 … here · world_size − 1, [sets, here].

        From a shared stream every rank sees the same permutations and takes its own slice: each entry is
        then uniform. Without one the numbers are dealt in turns, rank r getting those that are r modulo
        world_size.
        """
        if self.shared is None:
            return self._permutations(sets, here, self.generator) * self.world_size + self.rank
        whole = self._permutations(sets, here * self.world_size, self.shared)
        return whole[:, self.rank * here : (self.rank + 1) * here]

    def sobol(self, jitter: Tensor) -> Tensor:
        """Sobol points by rank, then by upstream sample, [R, K]: K = 2^m consecutive ones stratify each
        sample, all of them the batch."""
        shift = self.shared if self.shared is not None else self.generator
        points = shifted_sobol(jitter.view(-1, 1), shift, first=self.rank * jitter.numel())
        return points.view_as(jitter)

    def _permutations(self, sets: int, count: int, generator: torch.Generator | None) -> Tensor:
        """Independent random permutations of 0 … count − 1, [sets, count]."""
        if self.device.type != "cpu" and sets > 1:
            return permutations_by_sorting(sets, count, generator, self.device)
        out = torch.empty(sets, count, dtype=torch.long, device=self.device)
        for row in out:
            torch.randperm(count, generator=generator, device=self.device, out=row)
        return out


def permutations_by_sorting(
    sets: int, count: int, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Independent random permutations of 0 … count − 1, [sets, count], by one sort of random keys.

    For a GPU, where a randperm each would be `sets` launches; of its 62-bit keys two hardly ever tie.
    """
    return torch.randint(2**62, (sets, count), generator=generator, device=device).argsort(1)


def draw_noise(
    upstream: int,
    draws: int,
    shape: Sequence[int],
    coupling: str,
    generator: torch.Generator | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Noises ε ~ N(0, I), [R, K, *shape], under one of :data:`NOISES`."""

    def normal(count: int) -> Tensor:
        return torch.randn(upstream, count, *shape, generator=generator, device=device, dtype=dtype)

    return NOISES[coupling].couple(normal, draws)
