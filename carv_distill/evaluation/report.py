"""A generator's report: every metric over several ranges of seeds, with its spread."""

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from carv_distill.data.spec import ImageSpec
from carv_distill.errors import UserError
from carv_distill.files import write_json
from carv_distill.processes import Processes

from .features import FeatureExtractor
from .fid import Metrics, compute_metrics
from .generate import Sample, generated_features
from .reference import Reference

METRICS = ("fid", "kid", "precision", "recall")


@dataclass(frozen=True)
class Summary:
    """A metric over seed ranges: mean, standard deviation (divisor n - 1; None for one range), minimum."""

    mean: float
    std: float | None
    minimum: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Summarise at least one value."""
        values = list(values)
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), std, min(values))


@dataclass(frozen=True)
class Report:
    """One generator's metrics.

    Attributes:
        name: the row's title in a table, e.g. "student".
        seed_ranges: first and last seed of each range, both included.
        metrics: one entry per range.
        extractor: name of the feature extractor.
        fingerprint: of the extractor's weights.
        reference: name of the reference.
        labels: how a seed's label was chosen.
    """

    name: str
    seed_ranges: tuple[tuple[int, int], ...]
    metrics: tuple[Metrics, ...]
    extractor: str
    fingerprint: str
    reference: str
    labels: str = "turn"

    @property
    def images(self) -> int:
        """Images per range, N."""
        return self.metrics[0].images

    def summary(self) -> dict[str, Summary]:
        """Mean, standard deviation and minimum of each metric that the reference allowed."""
        columns = {key: [getattr(metrics, key) for metrics in self.metrics] for key in METRICS}
        return {key: Summary.of(values) for key, values in columns.items() if None not in values}

    def to_dict(self) -> dict[str, Any]:
        """Everything above, for JSON: `summary` per metric and `ranges` with each range's own values."""
        return {
            "name": self.name,
            "images": self.images,
            "seed_ranges": [list(limits) for limits in self.seed_ranges],
            "extractor": self.extractor,
            "extractor_fingerprint": self.fingerprint,
            "reference": self.reference,
            "labels": self.labels,
            "summary": {key: asdict(summary) for key, summary in self.summary().items()},
            "ranges": [asdict(metrics) for metrics in self.metrics],
        }

    def save(self, path: Path | str) -> None:
        """Write :meth:`to_dict` as JSON, atomically."""
        write_json(path, self.to_dict())


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
    device: torch.device | str = "cpu",
    kid_subsets: int = 100,
    progress: bool = False,
    labels: str = "turn",
    processes: Processes | None = None,
) -> Report:
    """Score a generator on the seeds 0..N-1, N..2N-1, … (three ranges, as EDM reports FID).

    Args:
        sample: see :data:`carv_distill.evaluation.generate.Sample`.
        images: N per range; FID is biased upwards by about 1/N, so compare only equal N.
        ranges: number of seed ranges; the spread over them is the generator's sampling error alone.
        device: of this process, where `processes` does not say.
        progress: show a bar on the terminal.
        labels: turn or random; see :func:`carv_distill.evaluation.generate.image_latents`.
        processes: they make and embed the images together, rank 0 measures, all get the same report.

    Raises:
        UserError: `ranges` or `batch_size` below 1, `images` below 4, or a failing generator.
    """
    for key, value, least in (("images", images, 4), ("ranges", ranges, 1), ("batch_size", batch_size, 1)):
        if value < least:
            raise UserError(f"{key}: found {value}; at least {least} is allowed")
    p = processes or Processes(device=device)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    scores = []
    with Progress(*columns, disable=not progress or p.rank > 0) as bar:
        task = bar.add_task(name, total=ranges * images)
        for start in range(0, ranges * images, images):
            features = generated_features(
                sample,
                range(start, start + images),
                spec,
                extractor,
                batch_size,
                p,
                lambda count, end=start + images: bar.update(  # type: ignore[misc]
                    task, completed=min(bar.tasks[0].completed + count, end)
                ),
                labels,
            )
            measured = None
            if p.rank == 0:
                measured = compute_metrics(features, reference.features, reference.statistics, kid_subsets)
            found = p.tell(measured)
            assert found is not None
            scores.append(found)
            best = min(metrics.fid for metrics in scores)
            bar.update(task, description=f"{name}  FID {best:.2f}")
    limits = tuple((i * images, (i + 1) * images - 1) for i in range(ranges))
    return Report(name, limits, tuple(scores), extractor.name, extractor.fingerprint, reference.name, labels)


def render_table(reports: Iterable[Report]) -> Table:
    """A row per report: mean ± standard deviation over its seed ranges, and FID's minimum, as published."""
    reports = list(reports)
    settings = {
        f"{len(r.metrics)} seed ranges of {r.images:,}, "
        f"{r.extractor} features {r.fingerprint}, against {r.reference}"
        for r in reports
    }
    table = Table("", box=SIMPLE_HEAD, pad_edge=False, caption="\n".join(sorted(settings)))
    for title in ("FID", "min", "KID\n×1000", "precision", "recall"):
        # in a narrow terminal the name wraps; a number cut short would be another number
        table.add_column(title, no_wrap=True)
    for report in reports:
        summary = report.summary()
        table.add_row(
            report.name,
            _cell(summary["fid"], ".2f"),
            f"{summary['fid'].minimum:.2f}",
            _cell(summary.get("kid"), ".3g", 1000),
            _cell(summary.get("precision"), ".2f"),
            _cell(summary.get("recall"), ".2f"),
        )
    return table


def _cell(summary: Summary | None, form: str, factor: float = 1) -> str:
    if summary is None:
        return "–"
    spread = "" if summary.std is None else f" ± {factor * summary.std:{form}}"
    return f"{factor * summary.mean:{form}}{spread}"
