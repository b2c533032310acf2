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
from carv_distill.variance import Table

from .features import FeatureExtractor
from .fid import KID_SUBSET_SIZE, HeldOut, Metrics, compute_metrics
from .floor import Floor, NoFloor
from .generate import Sample, generated_features
from .prompted import Prompted
from .reference import Reference

METRICS = ("fid", "kid", "precision", "recall", "clip", "recognised")
LABELLED = {"random": "at random", "turn": "in turn"}
FEW = 10_000
"""Images below which the reader is told what few of them do to FID and KID."""


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
    return {key: v for key, v in values.items() if v is not None or key not in ("clip", "recognised")}


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


def report_table(
    reports: Iterable[Report], floor: Floor | HeldOut | NoFloor | None = None, as_trained: bool = False
) -> Table:
    """A row per report, mean ± standard deviation over its seed ranges and FID's minimum, and the floor.

    Args:
        as_trained: the first report is of what a run trained, in the setting of the run's own FIDs.
    """
    reports = list(reports)
    summaries = [(r.name, r.summary(), f"{r.summary()['fid'].minimum:.2f}") for r in reports]
    if of_floor := floor_summary(floor):
        name = "perfect generator" if isinstance(floor, Floor) else "real images"
        summaries.append((f"floor: {name}", of_floor, "–"))
    kid = KIDUnit.of([abs(s["kid"].mean) for _, s, _ in summaries if "kid" in s])
    headers: tuple[str, ...] = ("", "FID", "min", kid.header, "precision", "recall")
    if any("recognised" in r.summary() for r in reports):
        headers = (*headers, "CLIP", "recognised")
    rows = [_row(*summary, kid)[: len(headers)] for summary in summaries]
    return Table("Sample quality", headers, rows, " ".join(_explained(reports, floor, as_trained)))


def floor_summary(floor: Floor | HeldOut | NoFloor | None) -> dict[str, Summary]:
    """Of each metric that is known of it; empty without one."""
    if isinstance(floor, HeldOut):
        return {"fid": Summary.of([floor.fid])}
    if not isinstance(floor, Floor):
        return {}
    summary = summarise(floor.metrics)
    if "kid" in summary and floor.metrics[0].images > KID_SUBSET_SIZE:
        # the spread is of its subsets, which are no smaller than a generator's
        summary["kid"] = replace(summary["kid"], std=None)
    return summary


@dataclass(frozen=True)
class KIDUnit:
    """How a table shows KID, whose size is that of the features to the sixth power: by Inception it is some
    thousandths, by the digits classifier up to hundreds."""

    factor: float
    digits: int
    """Behind the point."""

    @classmethod
    def of(cls, sizes: Sequence[float]) -> Self:
        """In which the largest of the absolute values lies between 1 and 1000, where it can."""
        largest = max(sizes, default=0.0)
        factor = next((f for f in (1.0, 1e3) if f * largest >= 1), 1e6) if largest else 1e3
        return cls(factor, 2 if factor * largest < 10 else 1)

    @property
    def header(self) -> str:
        """Of its column."""
        return {1.0: "KID", 1e3: "KID × 1000", 1e6: "KID × 10⁶"}[self.factor]


def _row(name: str, s: dict[str, Summary], least: str, kid: KIDUnit) -> tuple[str, ...]:
    cells = (_cell(s["fid"], ".2f"), least, _cell(s.get("kid"), f".{kid.digits}f", kid.factor))
    others = ((key, ".1f" if key == "clip" else ".2f") for key in METRICS[2:])
    return (name, *cells, *(_cell(s.get(key), form) for key, form in others))


def _explained(
    reports: Sequence[Report], floor: Floor | HeldOut | NoFloor | None, as_trained: bool
) -> list[str]:
    """The table's caption: what was compared, what the columns are, and what they do not say."""
    settings = {
        f"{len(r.metrics)} seed {'range' if len(r.metrics) == 1 else 'ranges'} of {r.images:,}, "
        f"{r.conditions} {LABELLED[r.labels]}, {r.extractor} features {r.fingerprint}, against {r.reference}."
        for r in reports
    }
    said = [*sorted(settings), "±: standard deviation over ranges; min: the least FID, as published."]
    if as_trained and len(reports[0].metrics) > 1:
        said.append(
            f"FIDs during training are of the first range alone: {reports[0].metrics[0].fid:.2f} for the "
            f"{reports[0].name}."
        )
    if isinstance(floor, NoFloor):
        said.append(f"No floor: {floor.reason}.")
    elif isinstance(floor, HeldOut):
        said.append(
            f"Floor: {floor.images:,} real images to test by in the generator's place, as kept with the "
            "statistics."
        )
        if any(r.images != floor.images for r in reports):
            said.append("The generator's are of another number: FID rises with about 1/N.")
    elif floor is not None and floor.rendered:
        said.append(
            f"Floor: {len(floor.metrics)} sets of as many real images, rendered by other cameras, in the "
            "generator's place; ± over sets."
        )
    elif floor is not None:
        first, second = floor.sizes
        said.append(
            f"Floor: real images in the generator's place, from {len(floor.metrics)} splits of the reference "
            f"into {first:,} and {second:,} images, FID and KID scaled to the numbers above; ± over splits, "
            "of both sides drawn anew, where a generator's ± holds the reference."
        )
        if floor.uneven:
            said.append(
                "The classes of the data are of unequal size, and the floor's labels have its shares: where "
                "a generator's are equally many, its FID is higher for that alone."
            )
    if min(r.images for r in reports) < FEW:
        said.append(
            "So few images raise FID, by about as much as the floor is, and make KID uncertain; compare with "
            "FIDs of as many images alone."
        )
    if any(r.labels == "turn" for r in reports):
        said.append("Labels in turn lower FID, and KID to below 0: compare with such alone.")
    return said


def _cell(summary: Summary | None, form: str, factor: float = 1) -> str:
    """mean ± deviation."""
    if summary is None:
        return "–"
    return " ± ".join(format(factor * v, form) for v in (summary.mean, summary.std) if v is not None)
