"""What generated images are compared with: a data set's features, or their statistics alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from carv_distill.data.batches import ordered_loader
from carv_distill.data.spec import ImageSet, to_uint8
from carv_distill.errors import UserError
from carv_distill.processes import Processes

from .features import FeatureExtractor, extract_features
from .fid import FeatureStatistics

KEPT = 100_000
"""Images up to which features are kept: KID, precision and recall against more would take hours."""
BATCH = 256


@dataclass(frozen=True, eq=False)
class Reference:
    """What generated images are compared with.

    Attributes:
        name: of the data or the file, for the report.
        statistics: mean and covariance of the features.
        features: [M, D], or None where only statistics are known.
    """

    name: str
    statistics: FeatureStatistics
    features: Tensor | None = None

    @classmethod
    def from_images(cls, name: str, images_uint8: Tensor, extractor: FeatureExtractor) -> Self:
        """The features of real images, uint8 [M, C, H, W]."""
        features = extract_features(extractor, images_uint8)
        return cls(name, FeatureStatistics.from_features(features), features)

    @classmethod
    def from_set(
        cls,
        data: ImageSet,
        extractor: FeatureExtractor,
        processes: Processes | None = None,
        workers: int = 0,
        progress: Callable[[int], None] | None = None,
        kept: int = KEPT,
    ) -> Self:
        """The features of a data set, made by all processes together.

        Up to `kept` images rank 0 has the features, and the other ranks the statistics alone. Beyond,
        μ = Σ f / M and Σ = (Σ f fᵀ − M μ μᵀ) / (M − 1) are summed in float64 and no features are kept, as in
        EDM's `fid.py`.

        Args:
            processes: each reads and embeds its batches; this one alone by default.
            workers: processes that decode files, for each of them.
            progress: called after each batch with the number of images that all have read meanwhile, about.

        Raises:
            UserError: fewer than 2 images, or a file that cannot be read.
        """
        p, count = processes or Processes(), len(data)
        if count < 2:
            raise UserError(f"data.name: {data.spec.name} has {count} images; statistics need at least 2")
        dim, keep = extractor.dim, count <= kept
        features = [torch.empty(0, dim)]
        total, squares = torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dim, dtype=torch.float64)
        for images, _ in ordered_loader(data, p.batches(count, BATCH), workers):
            found = extractor(to_uint8(images)).float().cpu()
            if keep:
                features.append(found)
            else:
                total += found.double().sum(0)
                squares += found.double().T @ found.double()
            if progress is not None:
                progress(len(found) * p.world_size)
        if keep:
            joined = p.join(torch.cat(features), count, BATCH)
            statistics = p.tell(FeatureStatistics.from_features(joined) if p.rank == 0 else None)
            assert statistics is not None
            return cls(data.spec.name, statistics, joined if p.rank == 0 else None)
        mu = p.sum(total) / count
        sigma = (p.sum(squares) - count * torch.outer(mu, mu)) / (count - 1)
        return cls(data.spec.name, FeatureStatistics(mu, sigma))

    @classmethod
    def from_file(cls, path: Path | str, extractor: FeatureExtractor, size: int | None = None) -> Self:
        """Statistics from an `.npz`; UserError where :meth:`FeatureStatistics.load` raises it."""
        statistics = FeatureStatistics.load(path, extractor.dim, size, extractor.fingerprint)
        return cls(Path(path).name, statistics)
