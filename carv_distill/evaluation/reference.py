"""What an FID needs besides the generator: features, and what generators are compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from carv_distill.data.batches import ordered_loader
from carv_distill.data.sets import ImageSet, originals, to_uint8
from carv_distill.errors import UserError
from carv_distill.processes import Processes

from .features import FeatureExtractor, load_extractor
from .fid import NEIGHBOURS, FeatureStatistics
from .options import FIDOptions

MOST_FEATURES = 100_000
"""Images up to which the features of each stay: KID, precision and recall against more would take hours."""
BATCH = 256


@dataclass(frozen=True, eq=False)
class Reference:
    """What generated images are compared with: a data set's features, or their statistics alone."""

    name: str
    """Of the data or the file, for the report."""
    statistics: FeatureStatistics
    features: Tensor | None = None
    """[M, D], or None where only statistics are known."""
    labels: Tensor | None = None
    """int64 [M], beside features of images with classes."""

    @classmethod
    def from_set(
        cls,
        data: ImageSet,
        extractor: FeatureExtractor,
        processes: Processes | None = None,
        workers: int = 0,
        progress: Callable[[int], None] | None = None,
        most_features: int = MOST_FEATURES,
    ) -> Self:
        """The features of a data set, made by all processes together.

        Up to `most_features` images rank 0 has the features, the other ranks the statistics alone. Beyond,
        μ = Σ f / M and Σ = (Σ f fᵀ − M μ μᵀ) / (M − 1) are summed in float64, as in EDM's `fid.py`.

        Args:
            processes: each reads and embeds its batches; this one alone by default.
            workers: processes that decode files, for each of them.
            progress: called after each batch with the number of images that all have read meanwhile, about.

        Raises:
            UserError: fewer than 2 images.
        """
        p, count = processes or Processes(), len(data)
        if count < 2:
            raise UserError(f"data.name: {data.spec.name} has {count} images; statistics need at least 2")
        dim, all_features = extractor.dim, count <= most_features
        features, labels = [torch.empty(0, dim)], [torch.empty(0, dtype=torch.long)]
        total, squares = torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dim, dtype=torch.float64)
        for images, numbers in ordered_loader(data, p.batches(count, BATCH), workers):
            part = extractor(to_uint8(images)).float().cpu()
            if all_features:
                features.append(part)
                labels.append(numbers)
            else:
                total += part.double().sum(0)
                squares += part.double().T @ part.double()
            if progress is not None:
                progress(len(part) * p.world_size)
        if all_features:
            joined = p.join(torch.cat(features), count, BATCH)
            classes = p.join(torch.cat(labels), count, BATCH)
            statistics = p.tell(FeatureStatistics.from_features(joined) if p.rank == 0 else None)
            assert statistics is not None
            if p.rank:
                return cls(data.spec.name, statistics)
            return cls(data.spec.name, statistics, joined, classes if data.spec.classes else None)
        mu = p.sum(total) / count
        sigma = (p.sum(squares) - count * torch.outer(mu, mu)) / (count - 1)
        return cls(data.spec.name, FeatureStatistics(mu, sigma))

    @classmethod
    def from_file(cls, path: Path | str, extractor: FeatureExtractor, size: int | None = None) -> Self:
        """Statistics from an `.npz`."""
        statistics = FeatureStatistics.load(path, extractor.dim, size, extractor.fingerprint)
        return cls(Path(path).name, statistics)


@dataclass
class FIDSetup:
    """Features and reference of the FIDs of a run."""

    options: FIDOptions
    extractor: FeatureExtractor
    data: ImageSet
    """What generators are measured against: no mirror images."""
    workers: int
    published: Reference | None
    """Statistics from a file."""

    @classmethod
    def load(cls, options: FIDOptions, data: ImageSet, workers: int, device: str) -> FIDSetup:
        """The configured features, and the statistics where there is a file of them.

        Raises:
            UserError: features that do not take the images, or too few images.
        """
        data = originals(data)
        extractor = load_extractor(options.features, options.weights)
        extractor.to(device)
        if not extractor.takes(data.spec):
            c, s = data.spec.channels, data.spec.size
            raise UserError(
                f"fid.features: {options.features} does not take the {c}×{s}×{s} images of {data.spec.name}; "
                "allowed for them: inception, clip, or classifier with one of such images as fid.weights"
            )
        published = None
        if options.reference is None and len(data) <= NEIGHBOURS:
            raise UserError(
                f"data: {data.spec.name} has {len(data)} images; FID, with precision and recall by "
                f"{NEIGHBOURS} neighbours, needs at least {NEIGHBOURS + 1} (fid.every=0 turns off a run's)"
            )
        if options.reference is not None:
            published = Reference.from_file(options.reference, extractor, data.spec.size)
        return cls(options, extractor, data, workers, published)

    def reference(self, processes: Processes) -> Reference:
        """The file of statistics, or the data set itself.

        Reference and generated images go through the network on one device, in one arithmetic.
        """
        if self.published is not None:
            return self.published
        return Reference.from_set(self.data, self.extractor, processes, self.workers)
