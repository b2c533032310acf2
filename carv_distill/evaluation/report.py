"""A generator's report: every metric over several ranges of seeds, with its spread."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from carv_distill.data.sets import ImageSpec
from carv_distill.errors import UserError
from carv_distill.processes import Processes
from carv_distill.progress import progress as counting

from .features import FeatureExtractor
from .fid import Metrics, compute_metrics
from .generate import Sample, generated_features
from .prompted import Prompted
from .reference import Reference

METRICS = ("fid", "kid", "precision", "recall", "copied", "clip", "recognised")
PROMPTED = ("clip", "recognised")
"""Metrics of images with prompts alone."""


@dataclass(frozen=True)
class Summary:
    """A metric over seed ranges: mean, standard deviation (divisor n - 1; None for one range), minimum."""

    mean: float
    std: float | None
    minimum: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Of one value at least."""
        values = list(values)
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), std, min(values))


def summarise(metrics: Sequence[Metrics]) -> dict[str, Summary]:
    """Mean, standard deviation and minimum of each metric that is known."""
    columns = {key: [getattr(m, key) for m in metrics] for key in METRICS}
    return {key: Summary.of(values) for key, values in columns.items() if None not in values}


@dataclass(frozen=True)
class Report:
    """One generator's metrics."""

    name: str
    """The row's title in a table, e.g. "student"."""
    seed_ranges: tuple[tuple[int, int], ...]
    """First and last seed of each range, both included."""
    metrics: tuple[Metrics, ...]
    """One entry per range."""
    extractor: str
    fingerprint: str
    reference: str
    """What the extractor, its weights and the reference are called."""
    labels: str = "random"
    """How a seed's label was chosen."""
    conditions: str = "labels"
    """What it is a number of: labels, or captions of the reference."""

    @property
    def images(self) -> int:
        """Images per range, N."""
        return self.metrics[0].images

    def summary(self) -> dict[str, Summary]:
        """Of each metric that the reference allowed, over the seed ranges."""
        return summarise(self.metrics)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: `summary` per metric and `ranges` with each range's own values."""
        return {
            "name": self.name,
            "images": self.images,
            "seed_ranges": [list(limits) for limits in self.seed_ranges],
            "extractor": self.extractor,
            "extractor_fingerprint": self.fingerprint,
            "reference": self.reference,
            "labels": self.labels,
            "summary": {key: asdict(summary) for key, summary in self.summary().items()},
            "ranges": [_known(metrics) for metrics in self.metrics],
        }


def _known(metrics: Metrics) -> dict[str, Any]:
    """A range's metrics; what images without prompts have not is left out."""
    values = asdict(metrics)
    return {key: v for key, v in values.items() if v is not None or key not in PROMPTED}


def evaluate_generator(
    sample: Sample,
    spec: ImageSpec,
    extractor: FeatureExtractor,
    reference: Reference,
    *,
    name: str = "generator",
    images: int = 50_000,
    ranges: int = 3,
    batch_size: int = 256,
    kid_subsets: int = 100,
    progress: bool = False,
    labels: str = "random",
    processes: Processes | None = None,
    prompted: Prompted | None = None,
) -> Report:
    """Score a generator on the seeds 0..N-1, N..2N-1, … (three ranges, as EDM reports FID).

    Args:
        images: N per range; FID is biased upwards by about 1/N, so compare only equal N.
        ranges: number of seed ranges; the spread over them is the generator's sampling error alone.
        progress: show a bar on the terminal.
        prompted: of a generator by caption.
        processes: they make and embed the images together, rank 0 measures, all get the same report.

    Raises:
        UserError: `ranges` or `batch_size` below 1, or `images` below 4.
    """
    for key, value, least in (("images", images, 4), ("ranges", ranges, 1), ("batch_size", batch_size, 1)):
        if value < least:
            raise UserError(f"{key}: found {value}; at least {least} is allowed")
    p, latent = processes or Processes(), None
    if prompted is not None:
        sample, spec, latent = prompted.sample(sample), prompted.spec(spec), prompted.latent
    scores = []
    with counting(name, ranges * images, progress and p.rank == 0) as advance:
        for start in range(0, ranges * images, images):
            end = start + images

            def of_range(count: int, end: int = end) -> None:
                advance(min(count, end - advance.done))  # batches are whole

            seeds = range(start, end)
            features = generated_features(
                sample, seeds, spec, extractor, batch_size, p, of_range, labels, latent
            )
            measured = None
            if p.rank == 0:
                measured = compute_metrics(features, reference.features, reference.statistics, kid_subsets)
                if prompted is not None and prompted.recognition is not None:
                    numbers = prompted.numbers(seeds, labels)
                    clip, recognised = prompted.recognition.scores(features, numbers)
                    measured = replace(measured, clip=clip, recognised=recognised)
            metrics = p.tell(measured)
            assert metrics is not None
            scores.append(metrics)
            advance.say(f"{name}  FID {summarise(scores)['fid'].mean:.2f}")
    limits = tuple((i * images, (i + 1) * images - 1) for i in range(ranges))
    about = extractor.name, extractor.fingerprint, reference.name, labels
    return Report(name, limits, tuple(scores), *about, "captions" if prompted else "labels")
