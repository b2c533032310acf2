"""The table of `evaluate.py fid`: generators and the floor side by side, and what its numbers do not say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from carv_distill.variance import Table

from .copies import EXPLAINED
from .fid import KID_SUBSET_SIZE, HeldOut
from .floor import Floor, NoFloor
from .report import METRICS, Report, Summary, summarise

NAMES, FORMS = {"clip": "CLIP"}, {"clip": ".1f"}
"""How a table calls a metric and writes it, where not by its key and with two decimals."""
LABELLED = {"random": "at random", "turn": "in turn"}
FEW = 10_000
"""Images below which the reader is told what few of them do to FID and KID."""


def report_table(
    reports: Iterable[Report], floor: Floor | HeldOut | NoFloor | None = None, as_trained: bool = False
) -> Table:
    """A column per report and one for the floor: of each metric that is known of any, mean ± standard
    deviation over the seed ranges, and FID's minimum.

    Args:
        as_trained: the first report is of what a run trained, in the setting of the run's own FIDs.
    """
    reports = list(reports)
    ranges = any(len(r.metrics) > 1 for r in reports)
    columns = [(r.name, r.summary()) for r in reports]
    least = [f"{summary['fid'].minimum:.2f}" for _, summary in columns]
    if of_floor := floor_summary(floor):
        name = "perfect generator" if isinstance(floor, Floor) else "real images"
        columns.append((f"floor: {name}", of_floor))
        least.append("–")
    summaries = [summary for _, summary in columns]
    kid = KIDUnit.of([abs(s["kid"].mean) for s in summaries if "kid" in s])
    rows = [("FID", *(_cell(s["fid"], ".2f") for s in summaries))]
    if ranges:
        rows.append(("least FID", *least))
    if any("kid" in s for s in summaries):
        rows.append((kid.header, *(_cell(s.get("kid"), f".{kid.digits}f", kid.factor) for s in summaries)))
    for key in METRICS[2:]:
        if any(key in s for s in summaries):
            cells = (_cell(s.get(key), FORMS.get(key, ".2f")) for s in summaries)
            rows.append((NAMES.get(key, key), *cells))
    headers = ("", *(name.replace(", ", ",\n").replace(": ", ":\n") for name, _ in columns))
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


def _explained(
    reports: Sequence[Report], floor: Floor | HeldOut | NoFloor | None, as_trained: bool
) -> list[str]:
    """The table's caption: what was compared, what the columns are, and what they do not say."""
    settings = {
        f"{len(r.metrics)} seed {'range' if len(r.metrics) == 1 else 'ranges'} of {r.images:,}, "
        f"{r.conditions} {LABELLED[r.labels]}, {r.extractor} features {r.fingerprint}, against {r.reference}."
        for r in reports
    }
    said = sorted(settings)
    if any(len(r.metrics) > 1 for r in reports):
        said.append("±: standard deviation over ranges; least FID: of one range, as published.")
    if any("copied" in r.summary() for r in reports):
        said.append(EXPLAINED)
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
