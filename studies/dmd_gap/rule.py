"""A rule that says from a run's own budget whether quality would follow a lower variance, and its test.

N, the noise of an update's gradient that is left after the student's average, over its signal, median over
the states of training (:mod:`~studies.dmd_gap.noise`). Quality is to follow where N is above c; c is fitted
on digits, and held to other data. Beside it N* = V/(H |E g*|²) at the end of one run, with the gradient of a
fake score that has caught up: the run's own |E g|² may be mostly the fake score's error of the moment.
Not on text-to-image, where that takes hours.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from carv_distill.errors import UserError
from studies.cached import compute
from studies.dmd_gap.arms import BASE, STRATA, Arm, Plan, estimator_words
from studies.dmd_gap.noise import NoiseLeft, horizon, noise_left, noise_of_runs
from studies.dmd_gap.settings import DIGITS, TEXT_TO_IMAGE, Setting, options_of
from studies.dmd_gap.states import Lag, measure_lag
from studies.dmd_gap.table import COSTS, FOLLOWS, NO_BETTER, outcome
from studies.finished import FINISHED
from studies.intervals import paired_differences
from studies.runs import train_all
from studies.sentences import estimate, show
from studies.study import Row, columns

SEEDS = (0, 1, 2, 3, 4, 5)
NOISES = {"noise_left": "N", "noise_exact": "N*"}
DIVERGED = "diverged"
"""The outcome where a training ended in NaN; as all that is not resolved, it counts nowhere."""
FOLLOWED = {FOLLOWS: True, COSTS: False, NO_BETTER: False}
"""Of outcomes that are resolved."""
PAIRS = 32
"""Of gradients, for |E g*|²."""


@dataclass(frozen=True)
class Pair:
    """Two estimators that are trained alike, and differ in their variance."""

    name: str
    noisy: Arm
    quiet: Arm
    upstream: int
    """R of both."""

    @property
    def setting(self) -> Setting:
        """Of both."""
        return self.noisy.setting


def pair(setting: Setting, upstream: int, draws: int, updates: int, decays: bool, factor: float) -> Pair:
    """(R,1) iid and (R,K) stratified for so many updates at one rate."""
    end = "to the end" if decays else "constant rate"
    name = f"{setting.name}, R = {upstream}, {updates} updates, {end}"
    single, many = estimator_words(upstream, 1, "iid"), estimator_words(upstream, draws, "stratified")
    noisy, quiet = (
        Arm(f"rule {name} {what}", setting, words, updates, math.nan, factor, decays, traced=())
        for what, words in (("noisy", single), ("quiet", many))
    )
    return Pair(name, noisy, quiet, upstream)


def pairs_on(setting: Setting, plan: Plan, arms: Iterable[Arm]) -> list[Pair]:
    """At the end and after a quarter at a constant rate, on digits also at R = 2 and 32. At R = 8 the end is
    that of the study's own arms, each at its own rate; all others share the baseline's."""
    u, factor, k = plan.updates, plan.base_factor, 16
    own = {arm.name: arm for arm in arms}
    found = [
        Pair(f"{setting.name}, R = 8, {u} updates, to the end", own[BASE], own[STRATA], 8),
        pair(setting, 8, k, u // 4, False, factor),
    ]
    for upstream in (2, 32) if setting == DIGITS else ():
        found += [
            pair(setting, upstream, k, u, True, factor),
            pair(setting, upstream, k, u // 4, False, factor),
        ]
    return found


def pairs_of_prompts(updates: int | None = None) -> list[Pair]:
    """Of text-to-image, for so many updates, by default those of the design."""
    return [pair(TEXT_TO_IMAGE, 12, 8, updates or TEXT_TO_IMAGE.lengths[0], True, 1.0)]


def train(pairs: Iterable[Pair], seeds: Sequence[int], folder: Path, workers: int) -> None:
    """All runs of all pairs.

    Raises:
        UserError: a run that is measured at its end is there as a record without its last checkpoint.
    """
    pairs = list(pairs)
    for each in pairs:
        if not each.setting.exact_noise:
            continue
        run = each.noisy.run(seeds[0])
        path = folder / run.name
        is_record = (path / FINISHED).is_file() and not any((path / "checkpoints").glob("*.ckpt"))
        if is_record and not run.diverged(folder):
            raise UserError(f"{path} has no checkpoint to look into; remove it to train it anew")
    for each in pairs:
        runs = [arm.run(seed) for seed in seeds for arm in (each.noisy, each.quiet)]
        train_all(runs, each.setting.config, folder, workers, each.setting.ranges, may_diverge=True)


def measure(
    pairs: Iterable[Pair],
    seeds: Sequence[int],
    folder: Path,
    workers: int,
    floor: float | None,
    quick: bool = False,
) -> list[Row]:
    """A row for each: N of the noisy runs and, where the setting has it, N*, the difference of FID at equal
    updates, paired over seeds, and whether quality followed: true, false, or none where that is not resolved.

    Args:
        floor: FID of real pictures; None where that is not known.
        quick: with the setting's own pairs of gradients for N*, which are few in a trial.
    """
    pairs = list(pairs)
    ended = {each.name: each.noisy.run(seeds[0]) for each in pairs}
    looked_into = [
        each for each in pairs if each.setting.exact_noise and not ended[each.name].diverged(folder)
    ]
    lags = compute(
        {
            each.name: partial(
                measure_lag,
                folder / ended[each.name].name,
                each.noisy.updates,
                each.setting.effort if quick else each.setting.effort._replace(pairs=PAIRS),
            )
            for each in looked_into
        },
        folder / "cache",
        workers,
    )
    return [_row(each, seeds, folder, floor, lags.get(each.name)) for each in pairs]


def _row(each: Pair, seeds: Sequence[int], folder: Path, floor: float | None, lag: Lag | None) -> Row:
    row: Row = {"setting": each.name, "data": each.setting.name}
    runs = {
        name: [arm.run(seed) for seed in seeds]
        for name, arm in (("quiet", each.quiet), ("noisy", each.noisy))
    }
    if any(run.diverged(folder) for of in runs.values() for run in of):
        return row | {"outcome": DIVERGED, "followed": None}
    fids = {name: [run.fid(folder) for run in of] for name, of in runs.items()}
    found = paired_differences(fids, [("quiet", "noisy")])["quiet", "noisy"]
    said = outcome(found, 2 * statistics.stdev(fids["noisy"]), statistics.fmean(fids["noisy"]), floor)
    options, metrics = options_of(each.setting), [run.metrics(folder) for run in runs["noisy"]]
    row |= _noise("noise_left", noise_of_runs(metrics, options, each.upstream))
    if lag is not None:
        variance = float(metrics[0]["variance/carv/total"].dropna().iloc[-1])
        exact = noise_left(variance, lag.signal, horizon(options, each.upstream, each.noisy.updates))
        row |= _noise("noise_exact", exact) | columns("exact_signal", lag.signal)
    row |= columns("difference", found)
    return row | {"outcome": said, "followed": FOLLOWED.get(said)}


def _noise(name: str, noise: NoiseLeft) -> Row:
    return {name: noise.value, f"{name}_least": noise.least}


def fit(rows: Sequence[Row], noise: str = "noise_left") -> float | None:
    """c: the geometric middle between two neighbours in N that has the fewest misses; the middle one of
    several such. None where it does no better than "always" or "never", as where all settings are alike."""
    rows = [row for row in rows if row["followed"] is not None]
    values = sorted(row[noise] for row in rows)
    candidates = [math.sqrt(a * b) for a, b in pairwise(values)]
    misses = [sum((row[noise] > c) != row["followed"] for row in rows) for c in candidates]
    follow = sum(row["followed"] for row in rows)
    if not misses or min(misses) >= min(follow, len(rows) - follow):
        return None
    best = [c for c, m in zip(candidates, misses, strict=True) if m == min(misses)]
    return best[(len(best) - 1) // 2]


def judge(rows: Sequence[Row]) -> tuple[dict[str, float | None], list[Row]]:
    """c by digits for both noises, and all rows with what each rule says of them and whether that holds; none
    where there is no c, or a setting is not resolved."""
    digits = [row for row in rows if row["data"] == DIGITS.name]
    borders = {noise: fit(digits, noise) for noise in NOISES}
    judged = []
    for row in rows:
        told: Row = {}
        for noise, c in borders.items():
            predicted = None if c is None or noise not in row else row[noise] > c
            known = predicted is not None and row["followed"] is not None
            told |= {f"{noise}_predicts": predicted}
            told |= {f"{noise}_holds": predicted == row["followed"] if known else None}
        judged.append(row | told)
    return borders, judged


def sentences(borders: Mapping[str, float | None], rows: Sequence[Row]) -> list[str]:
    """The rules with their hits where they were fitted and elsewhere, beside those of always and never."""
    said = []
    for noise, name in NOISES.items():
        c = borders[noise]
        if c is None:
            said.append(f"By {name}: no border does better on digits than always or never; it says nothing.")
            continue
        said.append(f"By {name}: quality is to follow a lower variance where it is above {c:.3g}.")
        for where, own in (("Fitted on digits", True), ("Held to other data", False)):
            known = [
                row for row in rows
                if (row["data"] == DIGITS.name) == own and row[f"{noise}_holds"] is not None
            ]  # fmt: skip
            held, follow = sum(row[f"{noise}_holds"] for row in known), sum(row["followed"] for row in known)
            said.append(
                f"{where}: it holds for {held} of {len(known)} that are resolved (always: {follow}, never: "
                f"{len(known) - follow})."
            )
    for row in rows:
        if row["outcome"] == DIVERGED:
            said.append(f"{row['setting']}: a training ended in NaN; it counts nowhere.")
            continue
        fid = f"difference of FID {show(estimate(row, 'difference'))}, {row['outcome']}"
        noises = ", ".join(
            f"{name} {'≥' if row[f'{noise}_least'] else '='} {row[noise]:.3g}"
            for noise, name in NOISES.items()
            if noise in row
        )
        said.append(f"{row['setting']}: {noises}; {fid}.")
    return said
