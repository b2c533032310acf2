"""Where pieces of the study are computed, and how much in its full and its quick version."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from studies.attribution_budget.arms import pilot
from studies.attribution_budget.models import MODELS
from studies.computed import Piece, computed


@dataclass(frozen=True)
class Sizes:
    """How much is computed for a model."""

    pilot_samples: int
    pilot_bins: int
    level_samples: int
    replicates: int
    """Of the variances."""
    samples: int
    """Training samples in each."""
    pool: int
    """Samples that are ranked, queries included."""
    reference_draws: int
    rankings: int
    """Sets of draws for each sampler and budget."""


FULL = {"digits": Sizes(12, 16, 32, 24, 8, 96, 512, 5), "latents": Sizes(12, 16, 32, 14, 2, 32, 256, 3)}
"""A draw of the latent model costs eight of the other."""
QUICK = {"digits": Sizes(3, 4, 3, 3, 2, 14, 64, 2), "latents": Sizes(3, 4, 3, 3, 1, 13, 64, 2)}


@dataclass(frozen=True)
class Retraining:
    """How much is trained anew."""

    steps: int
    halves: int
    """Models of random halves."""
    removed: int
    """Digits left out of a training."""
    queries: int
    """Queries whose most influential digits are left out."""
    seeds: int
    draws: tuple[int, ...]


@dataclass(frozen=True)
class Workshop:
    """Where and how pieces are computed."""

    quick: bool
    folder: Path
    workers: int
    seed: int

    @property
    def sizes(self) -> dict[str, Sizes]:
        """Of each model."""
        return QUICK if self.quick else FULL

    @property
    def mosaics(self) -> dict[int, int]:
        """Replicates of each size."""
        return {8: 3, 16: 3} if self.quick else {8: 48, 16: 32, 32: 24, 64: 12, 128: 8}

    @property
    def retraining(self) -> Retraining:
        """Of models without a part of the digits."""
        return (
            Retraining(20, 4, 50, 2, 2, (1, 4))
            if self.quick
            else Retraining(500, 32, 100, 6, 2, (1, 4, 16, 64))
        )

    def path(self, name: str) -> str:
        """Of a file that pieces share."""
        return str(self.folder / name)

    def run(self, pieces: dict[str, Piece]) -> dict[str, dict[str, Any]]:
        """Their results, in order."""
        return computed(pieces, self.folder, self.workers)

    def samplers(self) -> dict[str, dict[str, Any]]:
        """The sampler `best` of each model."""
        pieces: dict[str, Piece] = {
            f"pilot/{m}": partial(pilot, m, self.seed, o.pilot_samples, o.pilot_bins)
            for m, o in self.sizes.items()
        }
        return dict(zip(MODELS, self.run(pieces).values(), strict=True))
