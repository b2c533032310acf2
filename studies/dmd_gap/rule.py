"""A rule that says from a run's own budget whether quality would follow a lower variance, and its test.

    N = V/(H |E g|²),    H = 1/(1 − ema),

the noise of an update's gradient that is left after the student's average, over its signal, median over the
states of a run. Quality is to follow where N is above c; c is fitted on digits, and held to other data.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pandas as pd

from studies.dmd_gap.arms import BASE, STRATA, Arm, Plan, estimator_words, make_arms
from studies.dmd_gap.settings import DIGITS, TEXT_TO_IMAGE, Setting
from studies.intervals import paired_differences
from studies.runs import train_all
from studies.sentences import decimals
from studies.study import Row, columns

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Pair:
    """Two estimators that are trained alike, and differ in their variance."""

    name: str
    noisy: Arm
    quiet: Arm

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
        Arm(f"rule {name} {what}", setting, words, updates, math.nan, factor, decays)
        for what, words in (("noisy", single), ("quiet", many))
    )
    return Pair(name, noisy, quiet)


def pairs_on(setting: Setting, plan: Plan) -> list[Pair]:
    """At the end and after a quarter at a constant rate, on digits also at R = 2 and 32. At R = 8 the end is
    that of the study's own arms."""
    u, factor, k = plan.updates, plan.base_factor, 16
    own = {arm.name: arm for arm in make_arms(setting, plan)}
    found = [
        Pair(f"{setting.name}, R = 8, {u} updates, to the end", own[BASE], own[STRATA]),
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
    """All runs of all pairs."""
    for each in pairs:
        runs = [arm.run(seed) for seed in seeds for arm in (each.noisy, each.quiet)]
        train_all(runs, each.setting.config, folder, workers, each.setting.ranges)


def measure(pairs: Iterable[Pair], seeds: Sequence[int], folder: Path) -> list[Row]:
    """A row for each: N of the noisy runs, and the difference of FID at equal updates, paired over seeds."""
    rows = []
    for each in pairs:
        fids = {
            name: [arm.run(seed).fid(folder) for seed in seeds]
            for name, arm in (("quiet", each.quiet), ("noisy", each.noisy))
        }
        found = paired_differences(fids, [("quiet", "noisy")])["quiet", "noisy"]
        noise = statistics.median(
            noise_left(each.noisy.run(seed).metrics(folder), each.setting.ema) for seed in seeds
        )
        row: Row = {"setting": each.name, "data": each.setting.name, "noise_left": noise}
        rows.append(row | columns("difference", found) | {"followed": found.high < 0})
    return rows


def noise_left(metrics: pd.DataFrame, ema: float) -> float:
    """N of a run, median over its measured states but the untrained one; where the signal is not told from
    0, N is large and counts as such."""
    measured = metrics[metrics.step > 0].dropna(subset="variance/carv/total")
    signal = measured["variance/carv/squared_norm"].clip(lower=1e-12)
    return float((measured["variance/carv/total"] * (1 - ema) / signal).median())


def fit(rows: Sequence[Mapping[str, float]]) -> float:
    """c: the geometric middle between two neighbours in N that has the fewest misses; the middle one of
    several such."""
    values = sorted(row["noise_left"] for row in rows)
    ends = [values[0] / 2, *values, values[-1] * 2]
    candidates = [math.sqrt(a * b) for a, b in pairwise(ends)]
    misses = [sum((row["noise_left"] > c) != row["followed"] for row in rows) for c in candidates]
    best = [c for c, m in zip(candidates, misses, strict=True) if m == min(misses)]
    return best[(len(best) - 1) // 2]


def judge(rows: Sequence[Row]) -> tuple[float, list[Row]]:
    """c by digits, and all rows with what the rule says of each."""
    c = fit([row for row in rows if row["data"] == DIGITS.name])
    judged = [row | {"predicted": row["noise_left"] > c} for row in rows]
    return c, [row | {"held": row["predicted"] == row["followed"]} for row in judged]


def sentences(c: float, rows: Sequence[Row]) -> list[str]:
    """The rule with its hits, where it was fitted and elsewhere."""
    said = [f"Quality is to follow a lower variance where the noise left after averaging is above {c:.3g}."]
    for where, chosen in (
        ("Fitted on digits", [row for row in rows if row["data"] == DIGITS.name]),
        ("Held to other data", [row for row in rows if row["data"] != DIGITS.name]),
    ):
        if chosen:
            said.append(f"{where}: it holds for {sum(row['held'] for row in chosen)} of {len(chosen)}.")
    for row in rows:
        d = decimals(row["difference_low"], row["difference_high"])
        ends = f"[{row['difference_low']:.{d}f}, {row['difference_high']:.{d}f}]"
        fid = f"difference of FID {row['difference']:.{d}f} {ends}"
        words = ("follows" if row["followed"] else "does not follow", "hit" if row["held"] else "miss")
        said.append(f"{row['setting']}: N = {row['noise_left']:.3g}, {fid}, {words[0]}: {words[1]}.")
    return said
