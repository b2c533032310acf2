"""The exact part of `dmd_bottleneck`: estimators × fake scores, what each leaves of the error."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from rich.progress import track

from carv_distill.variance import mean_estimate
from studies.blocks import exponential
from studies.exact_dmd import Estimator, ExactDMD
from studies.results import columns

ESTIMATORS = (Estimator(8, 1, "iid"), Estimator(8, 16, "stratified"), Estimator(64, 16, "stratified"))
FAKE_UPDATES = (0, 1, 3, 10)
NEAR = 0.1
"""Squared Wasserstein distance whose first crossing is a student's speed; they start at about 12."""

ARRIVED = 1e-9

Point = Mapping[str, Any]


def fake_name(updates: int) -> str:
    """The fake score of an arm, in words."""
    plural = "s" if updates > 1 else ""
    return f"{updates} fake update{plural}" if updates else "exact fake score"


def exact_points(seeds: Sequence[int], updates: int, every: int) -> tuple[list[Point], list[Point]]:
    """(measurements along every training, first update within NEAR of every training).

    A measurement is made between an update's fake part and its student part, so that the student is paired
    with the fake score that it meets; and of all three estimators in the same state.
    """
    points: list[Point] = []
    arrivals: list[Point] = []
    trainings = [(n, e, seed) for n in FAKE_UPDATES for e in ESTIMATORS for seed in seeds]
    for n, estimator, seed in track(trainings, "exact"):
        run = ExactDMD(estimator, n, seed)
        training = {"estimator": estimator.name, "fake_updates": n, "seed": seed}
        arrived = None
        for step in range(1, updates + 1):
            run.learn_fake()
            if step % every == 0:
                points.append({**training, "step": step, "distance": run.distance, **run.errors(ESTIMATORS)})
            run.learn_student()
            if run.distance < NEAR:
                arrived = arrived or step
        arrivals.append({**training, "arrived": arrived})
    return points, arrivals


def exact_rows(points: Sequence[Point], arrivals: Sequence[Point], updates: int) -> list[dict[str, Any]]:
    """One row per fake score and estimator, all against (8,1) iid with the same fake score:

    variance_ratio    how much less variance, in the states of the training by (8,1) iid
    arrived           student updates to the distance NEAR; absent where some training did not get there
    distance          to the data, mean over the last half of the training
    distance_ratio    of this one over (8,1) iid; absent where both are zero to rounding
    fake_share        squared error that the fake score causes, over the estimator's variance, last half
    """
    seeds = sorted({p["seed"] for p in points})
    along: dict[tuple[int, str, int], list[Point]] = defaultdict(list)
    for p in points:
        along[p["fake_updates"], p["estimator"], p["seed"]].append(p)
    arrived = {(a["fake_updates"], a["estimator"], a["seed"]): a["arrived"] for a in arrivals}
    rows = []
    for n, e in product(FAKE_UPDATES, ESTIMATORS):
        own, base = ([along[n, of.name, seed] for seed in seeds] for of in (e, ESTIMATORS[0]))
        quieter = [_variance_ratio(training, e) for training in base]
        row = {
            "fake_score": fake_name(n),
            "estimator": e.name,
            **columns("variance_ratio", exponential(mean_estimate(quieter))),
            **columns("distance", mean_estimate([_late(t, "distance", updates) for t in own], positive=True)),
        }
        reached = [arrived[n, e.name, s] for s in seeds]
        if all(reached):
            row |= columns("arrived", mean_estimate([float(a) for a in reached], positive=True))
        if n:
            farther = [
                math.log(_late(t, "distance", updates) / _late(b, "distance", updates))
                for b, t in zip(base, own, strict=True)
            ]
            share = [_late(t, "fake", updates) / _late(t, e.name, updates) for t in own]
            row |= columns("distance_ratio", exponential(mean_estimate(farther)))
            row |= columns("fake_share", mean_estimate(share))
        rows.append(row)
    return rows


def _late(training: Sequence[Point], name: str, updates: int) -> float:
    """Mean over the last half of a training."""
    return statistics.fmean(p[name] for p in training if p["step"] > updates / 2)


def _variance_ratio(training: Sequence[Point], estimator: Estimator) -> float:
    """Mean logarithm of how much less variance than the baseline an estimator has in the states of a
    training; with the exact fake score only until the student has arrived, where all variances vanish."""
    return statistics.fmean(
        math.log(p[ESTIMATORS[0].name] / p[estimator.name]) for p in training if p["distance"] > ARRIVED
    )


def exact_verdict(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the quieter estimators change, for each fake score."""
    said = []
    for row in rows:
        if row["estimator"] == ESTIMATORS[0].name:
            base = row
            continue
        parts = [
            f"{row['fake_score']}: {row['estimator']} has {_cell(row, 'variance_ratio')} times less variance "
            f"than {base['estimator']}",
            f"{_arrival(row)} instead of {_arrival(base)}",
        ]
        if "distance_ratio" in row:
            parts.append(f"it ends at {_cell(row, 'distance_ratio')} times the other's distance")
            share = f"{_cell(row, 'fake_share')} times its variance"
            parts.append(
                f"the fake score's error is {share if row['fake_share_low'] > 0 else 'not resolved'}"
            )
        else:
            parts.append(f"it ends at distance {row['distance']:.2g}, the other at {base['distance']:.2g}")
        said.append("; ".join(parts))
    return said


def _arrival(row: Mapping[str, Any]) -> str:
    return f"{_cell(row, 'arrived')} updates to distance {NEAR}" if "arrived" in row else "never near"


def _cell(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:.3g} [{row[name + '_low']:.3g}, {row[name + '_high']:.3g}]"
