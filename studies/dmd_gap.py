"""Variance of the student's gradient against FID: does a quieter gradient make a better student?

    python -m studies.dmd_gap [--quick] [--workers 2]

Arms on digits, the same seeds in all:

    (8,1) iid            the baseline, run on until it has spent the seconds of (8,16)
    (8,16) iid           compute reuse
    (8,16) stratified    and stratified noise levels
    (8,16) best          nested strata, adaptive Neyman proposal, the noise coupling that parity allows
    (R',1) iid           the seconds of (8,16), spent on more upstream samples

--updates are those of the (8,16) arms. The learning rate stays constant, so that a quieter gradient has its
best chance to show. The paper (arXiv 2605.21489, one-step distillation) finds
10–30 times less variance and no better FID.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from carv_distill.variance import Estimate, mean_estimate
from studies.blocks import block_differences, exponential
from studies.dmd_gap_figures import draw_gap
from studies.dmd_gap_pilot import Plan, make_plan
from studies.jobs import Job, add_run_options, fid_of, read_run, run_jobs, seconds_per_update
from studies.results import Study, columns, run_study, study_parser

Trace = Sequence[Mapping[str, float]]
"""Rows of a run's metrics.csv."""

CONFIG = Path("configs/dmd_carv.yaml")
COMMON = ("dmd.lr_decay=none", "trainer.log_every=10", "checkpoint.every=100", "checkpoint.keep_best=0")
BASE, REUSE, STRATIFIED, BEST = "(8,1) iid", "(8,16) iid", "(8,16) stratified", "(8,16) best"


@dataclass(frozen=True)
class GapArm:
    """An estimator, and for how many updates it runs."""

    name: str
    words: tuple[str, ...]
    updates: int
    seconds: float
    """Of one update, as the pilot timed it."""

    def job(self, seed: int) -> Job:
        """Its run with one seed."""
        name = "".join(c if c.isalnum() else "-" for c in self.name).strip("-")
        return Job(
            f"{name}-seed{seed}", (*COMMON, *self.words, f"seed={seed}", f"trainer.max_steps={self.updates}")
        )


def _words(r: int, k: int, strategy: str) -> tuple[str, ...]:
    return (f"estimator.upstream={r}", f"estimator.draws={k}", f"estimator.strategy={strategy}")


def arms(updates: int, plan: Plan, every: int) -> list[GapArm]:
    """The five arms; the first is the baseline. Variance and FID are measured every few updates."""
    traces = (f"variance.every={2 * every}", f"fid.every={every}")

    def arm(name: str, r: int, k: int, strategy: str, count: int, seconds: float, *words: str) -> GapArm:
        return GapArm(name, (*_words(r, k, strategy), *traces, *words), count, seconds)

    best = (f"estimator.noise={plan.noise}", "estimator.proposal=adaptive", "estimator.statistic=neyman")
    return [
        arm(BASE, 8, 1, "iid", round(updates * plan.longer / every) * every, plan.base),
        arm(REUSE, 8, 16, "iid", updates, plan.reuse),
        arm(STRATIFIED, 8, 16, "stratified", updates, plan.reuse),
        arm(BEST, 8, 16, "nested", updates, plan.reuse, *best),
        arm(f"({plan.upstream},1) iid", plan.upstream, 1, "iid", updates, plan.more),
    ]


def pilot(folder: Path, updates: int, workers: int) -> Plan:
    """Trains one (8,16) stratified student aside, with a seed that is not the study's, and measures it."""
    words = (*_words(8, 16, "stratified"), "variance.every=0", "fid.every=0")
    job = GapArm("pilot", words, updates, 0.0).job(12345)
    run_jobs([job], CONFIG, folder, workers, evaluate=False)
    return make_plan(folder / job.name, folder / "plan.json")


def window(rows: Trace, name: str, first: float, last: float) -> list[float]:
    """The values of a metric measured at updates first < step ≤ last."""
    return [r[name] for r in rows if name in r and first < r["step"] <= last]


def log_ratio(base: Trace, arm: Trace, name: str) -> float:
    """Mean over training of log(base/arm) of a variance, at the updates at which both were measured.

    A variance from 8 pairs has a logarithm 1 to 4 % too low on average, and the baseline's most: a ratio of
    them errs by some 2 %, far less than its interval.
    """
    there = {r["step"]: r[name] for r in base if name in r}
    logs = [math.log(there[r["step"]] / r[name]) for r in arm if name in r and r["step"] in there]
    return statistics.fmean(logs)


def late_fid(rows: Trace, updates: int) -> float:
    """Mean FID over the last third of so many updates."""
    return statistics.fmean(window(rows, "fid/fid", updates * 2 / 3, updates))


def summarise(
    compared: Sequence[GapArm], seeds: Sequence[int], folder: Path, updates: int
) -> list[dict[str, Any]]:
    """A row per arm: ratios of variance against the baseline, differences of FID, over seeds.

    FID is the mean of its trace over the last third of a training. At equal seconds every arm has its own
    training, the baseline its longer one; at equal updates the baseline's stops where the others do. All
    differences of one kind hold at once (:func:`block_differences`). `fid_difference_more` is at equal
    seconds too, against the arm that spends them on samples.
    """
    base, *others = compared
    more = others[-1]
    runs = {arm.name: [read_run(folder, arm.job(seed)) for seed in seeds] for arm in compared}
    ends = {arm.name: [late_fid(run, arm.updates) for run in runs[arm.name]] for arm in compared}
    stops = ends | {base.name: [late_fid(run, updates) for run in runs[base.name]]}
    to_base = [(arm.name, base.name) for arm in others]
    to_more = [(arm.name, more.name) for arm in others[:-1]]
    same_updates = block_differences(stops, to_base)
    same_seconds = block_differences(ends, [*to_base, *to_more])
    rows = []
    for arm in compared:
        pairs = list(zip(runs[base.name], runs[arm.name], strict=True))
        row = {
            "arm": arm.name,
            "updates": arm.updates,
            "seconds_per_update": arm.seconds,
            "seconds_per_update_logged": statistics.median(seconds_per_update(r) for r in runs[arm.name]),
            **{
                column: value
                for part in ("total", "within")
                for column, value in columns(f"{part}_ratio", _ratio(pairs, f"variance/carv/{part}")).items()
            },
            **columns("fid", mean_estimate(ends[arm.name])),
            "final_fid_three_ranges": statistics.fmean(fid_of(folder, arm.job(seed)) for seed in seeds),
        }
        if arm is not base:
            row |= columns("fid_difference_equal_updates", same_updates[arm.name, base.name])
            row |= columns("fid_difference_equal_seconds", same_seconds[arm.name, base.name])
        if (arm.name, more.name) in same_seconds:
            row |= columns("fid_difference_more", same_seconds[arm.name, more.name])
        rows.append(row)
    return rows


def _ratio(pairs: Sequence[tuple[Trace, Trace]], name: str) -> Estimate:
    return exponential(mean_estimate([log_ratio(there, here, name) for there, here in pairs]))


def verdict(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the numbers say, one sentence per arm; an interval that holds zero resolves nothing."""
    said = []
    for r in rows[1:]:
        parts = [
            f"{r['arm']}: variance {_of(r, 'total_ratio')} times lower "
            f"({_of(r, 'within_ratio')} with the upstream fixed)"
        ]
        for name, words in (
            ("equal_updates", "at equal updates"),
            ("equal_seconds", "at equal seconds"),
            ("more", f"than {rows[-1]['arm']}"),
        ):
            key = f"fid_difference_{name}"
            if key in r:
                low, high = r[f"{key}_low"], r[f"{key}_high"]
                sense = "lower" if high < 0 else "higher" if low > 0 else "not resolved"
                parts.append(f"FID {sense} {words}, difference {_of(r, key)}")
        said.append("; ".join(parts))
    return said


def _of(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:.3g} [{row[name + '_low']:.3g}, {row[name + '_high']:.3g}]"


def traces(arms_: Sequence[GapArm], seeds: Sequence[int], folder: Path) -> list[dict[str, Any]]:
    """All measurements: arm, seed, update, seconds of training, variance and FID."""
    names = {f"variance/carv/{q}": q for q in ("total", "within", "between", "squared_norm")} | {
        "fid/fid": "fid"
    }
    found = []
    for arm in arms_:
        for seed in seeds:
            rows = read_run(folder, arm.job(seed))
            for r in rows:
                values = {short: r[name] for name, short in names.items() if name in r}
                if values:
                    place = {
                        "arm": arm.name,
                        "seed": seed,
                        "step": r["step"],
                        "seconds": r["step"] * arm.seconds,
                    }
                    found.append(place | values)
    return found


def run(study: Study, arguments: argparse.Namespace) -> None:
    """Pilot, all runs, tables, figure, verdict."""
    updates, every, count = (60, 10, 2) if study.quick else (arguments.updates, 25, arguments.seeds)
    seeds = [arguments.seed + i for i in range(count)]
    study.use_seeds(seeds)
    folder = arguments.runs / ("dmd_gap_quick" if study.quick else "dmd_gap")
    plan = pilot(folder, updates, arguments.workers)
    compared = arms(updates, plan, every)
    run_jobs([arm.job(seed) for seed in seeds for arm in compared], CONFIG, folder, arguments.workers)
    rows = summarise(compared, seeds, folder, updates)
    points = traces(compared, seeds, folder)
    sentences = verdict(rows)
    study.write("dmd_gap", rows, verdict=sentences, plan=asdict(plan))
    study.write("traces", points)
    study.draw("dmd_gap", draw_gap(points, [arm.name for arm in compared]))
    print("\n".join(sentences))


def main(words: list[str] | None = None) -> int:
    """The study from its command line."""
    parser = study_parser(__doc__)
    add_run_options(parser, updates=400, seeds=5)
    return run_study("dmd_gap", parser, run, words)


if __name__ == "__main__":
    sys.exit(main())
