"""The exact part: estimators × fake scores, what each leaves of the error."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import product

import pandas as pd
from matplotlib.figure import Figure
from rich.progress import track

from carv_distill.figures import BLUE, GREEN, GREY, ORANGE, new_figure, use_whole_numbers
from carv_distill.variance import mean_estimate
from studies.dmd_bottleneck.gaussian_dmd import Estimator, ExactDMD
from studies.intervals import exponential
from studies.sentences import estimate, sentence
from studies.study import Row, columns

ESTIMATORS = (Estimator(8, 1, "iid"), Estimator(8, 16, "stratified"), Estimator(64, 16, "stratified"))
BASE = ESTIMATORS[0].name
FAKE_UPDATES = (0, 1, 3, 10)
NEAR = 0.1
"""Squared Wasserstein distance whose first crossing is a student's speed; they start at about 12."""

ARRIVED = 1e-9
TRAINING = ["fake_updates", "estimator", "seed"]


def fake_name(updates: int) -> str:
    """The fake score of an arm, in words."""
    plural = "s" if updates > 1 else ""
    return f"{updates} fake update{plural}" if updates else "exact fake score"


def train(seeds: Sequence[int], updates: int, every: int) -> tuple[list[Row], list[Row]]:
    """(measurements along every training, first update within NEAR of every training).

    A measurement is made between an update's fake part and its student part, so that the student is paired
    with the fake score that it meets; and of all three estimators in the same state.
    """
    points: list[Row] = []
    arrivals: list[Row] = []
    for n, estimator, seed in track([*product(FAKE_UPDATES, ESTIMATORS, seeds)], "exact"):
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


def summarise(points: Sequence[Row], arrivals: Sequence[Row], updates: int) -> list[Row]:
    """One row per fake score and estimator, all against (8,1) iid with the same fake score:

    variance_ratio    how much less variance, in the states of the training by (8,1) iid
    arrived           student updates to the distance NEAR; absent where some training did not get there
    distance          to the data, mean over the last half of the training
    distance_ratio    of this one over (8,1) iid; absent where both are zero to rounding
    fake_share        squared error that the fake score causes, over the estimator's variance, last half
    """
    along = pd.DataFrame(points)
    late = along[along.step > updates / 2].groupby(TRAINING).agg(
        dict.fromkeys(("distance", "fake", *(e.name for e in ESTIMATORS)), statistics.fmean)
    )  # fmt: skip
    arrived = pd.DataFrame(arrivals).set_index(TRAINING).arrived.sort_index()
    # With the exact fake score all variances vanish once the student has arrived.
    moving = along[(along.distance > ARRIVED) & (along.estimator == BASE)].groupby(["fake_updates", "seed"])
    rows = []
    for n, estimator in product(FAKE_UPDATES, ESTIMATORS):
        e = estimator.name
        own, base = late.loc[n, e], late.loc[n, BASE]
        quieter = [statistics.fmean(map(math.log, s[BASE] / s[e])) for (m, _), s in moving if m == n]
        row: Row = {
            "fake_score": fake_name(n),
            "estimator": e,
            **columns("variance_ratio", exponential(mean_estimate(quieter))),
            **columns("distance", mean_estimate(own.distance.tolist(), positive=True)),
        }
        if arrived[n, e].notna().all():
            row |= columns("arrived", mean_estimate(arrived[n, e].astype(float).tolist(), positive=True))
        if n:
            farther = [math.log(ratio) for ratio in own.distance / base.distance]
            row |= columns("distance_ratio", exponential(mean_estimate(farther)))
            row |= columns("fake_share", mean_estimate((own.fake / own[e]).tolist()))
        rows.append(row)
    return rows


def verdict(rows: Sequence[Row]) -> list[str]:
    """What the quieter estimators change, for each fake score."""
    names = {
        "variance_ratio": f"variance of {BASE} over its own",
        "arrived": f"updates to distance {NEAR}",
        "distance_ratio": "distance at the end over that of the other",
        "fake_share": "the fake score's error over its variance",
        "distance": "distance at the end",
    }
    sentences = []
    for row in rows:
        numbers = {words: estimate(row, name) for name, words in names.items() if name in row}
        sentences.append(sentence(f"{row['fake_score']}, {row['estimator']}", numbers))
    return sentences


def draw_exact(points: Sequence[Row]) -> Figure:
    """Top: distance to the data; bottom: Monte-Carlo variance (solid) and the fake score's error (dashed).

    One column per estimator, one colour per fake score; means over seeds. What is below the axis is zero to
    rounding, or in the dashed lines a difference that fell below zero.
    """
    figure = new_figure(5.2)
    grid = figure.subplots(2, len(ESTIMATORS), sharex=True, sharey="row")
    means = pd.DataFrame(points).groupby(["estimator", "fake_updates", "step"]).mean()
    for column, estimator in enumerate(ESTIMATORS):
        top, bottom = grid[0][column], grid[1][column]
        for n, colour in zip(FAKE_UPDATES, (GREY, ORANGE, BLUE, GREEN), strict=True):
            mine = means.loc[estimator.name, n]
            top.plot(mine.distance, color=colour, lw=1.4, label=None if column else fake_name(n))
            bottom.plot(mine[estimator.name], color=colour, lw=1.4)
            if n:
                bottom.plot(mine.fake, color=colour, lw=1.2, ls="--")
        top.set_title(estimator.name, fontsize=10)
        for axes, least in ((top, 1e-4), (bottom, 1e-5)):
            axes.set_yscale("log", nonpositive="mask")
            axes.set_ylim(bottom=least)
            axes.grid(alpha=0.25)
        bottom.set(xlabel="student updates")
        use_whole_numbers(bottom)
    grid[0][0].set(ylabel="Wasserstein² to the data")
    grid[1][0].set(ylabel="squared gradient error")
    grid[1][0].plot([], [], "k-", lw=1.4, label="lower row: Monte-Carlo variance")
    grid[1][0].plot([], [], "k--", lw=1.2, label="lower row: the fake score's error")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure
