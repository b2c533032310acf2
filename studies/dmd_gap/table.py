"""Ratios of variance, differences of FID, and what they say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from carv_distill.variance import Estimate, mean_estimate
from studies.dmd_gap.arms import BASE, BEST, DECIDING, LONGER, REUSE, STRATA, Arm
from studies.intervals import exponential, paired_differences
from studies.runs import seconds_per_update
from studies.sentences import estimate, sentence, show
from studies.study import Row, columns, filled

PARTS = ("total", "within", "between", "squared_norm")
Finals = Mapping[str, Sequence[float]]
"""Arm → final FID of each of its seeds, in one order of the seeds; the deciding pair has more of them."""
Seeds = Mapping[str, Sequence[int]]
SHORT = {f"variance/carv/{part}": part for part in PARTS} | {"fid/fid": "fid"}
FOLLOWS, COSTS, NO_BETTER = "follows", "costs", "no better"
AT_THE_FLOOR, NOT_RESOLVED = "at the floor", "not resolved"


def read_runs(arms: Sequence[Arm], seeds: Seeds, folder: Path) -> pd.DataFrame:
    """All metrics with arm, seed, and `price`: seconds so far as the pilot timed them."""
    runs = []
    for arm in arms:
        for seed in seeds[arm.name]:
            metrics = arm.run(seed).metrics(folder)
            runs.append(metrics.assign(arm=arm.name, seed=seed, price=metrics.step * arm.seconds))
    return pd.concat(runs, ignore_index=True)


def trace_rows(metrics: pd.DataFrame) -> list[Row]:
    """All measurements: arm, seed, update, seconds of training, variance and FID."""
    short = metrics.rename(columns=SHORT)
    chosen = short[["arm", "seed", "step", "price", *PARTS, "fid"]].rename(columns={"price": "seconds"})
    return filled(chosen.dropna(subset=[*PARTS, "fid"], how="all"))


def run_rows(arms: Sequence[Arm], metrics: pd.DataFrame, finals: Finals, seeds: Seeds) -> list[Row]:
    """A row per run: its final FID, and the seconds of an update as it logged them."""
    rows = []
    for arm in arms:
        for seed, fid in zip(seeds[arm.name], finals[arm.name], strict=True):
            own = metrics[(metrics.arm == arm.name) & (metrics.seed == seed)]
            rows.append({"arm": arm.name, "seed": seed, "fid": fid, "seconds": seconds_per_update(own)})
    return rows


def log_ratio(base: pd.DataFrame, arm: pd.DataFrame, name: str) -> float:
    """Mean over training of log(base/arm) of a variance, at the updates at which both were measured.

    A variance from 8 pairs has a logarithm 2 (baseline) to 4 % (strata) too low on average: a ratio of them
    errs by some 2 %, far less than its interval.
    """
    there, here = (run.set_index("step")[name].dropna() for run in (base, arm))
    return statistics.fmean(math.log(ratio) for ratio in (there / here).dropna())


def arm_rows(arms: Sequence[Arm], traces: Sequence[Row], finals: Finals) -> list[Row]:
    """A row per arm: its setting, its final FID over seeds, and how many times the baseline's variance is its
    own (both at equal updates; the longer baseline has none)."""
    table = pd.DataFrame(traces)
    of_arm = {arm.name: dict(iter(table[table.arm == arm.name].groupby("seed"))) for arm in arms}
    rows = []
    for arm in arms:
        row: Row = {"arm": arm.name, "updates": arm.updates, "factor": arm.factor}
        row["seconds_per_update"] = arm.seconds
        row |= columns("fid", mean_estimate(list(finals[arm.name])))
        if arm.name not in (BASE, LONGER):
            for part in ("total", "within"):
                pairs = [(run, of_arm[arm.name][seed]) for seed, run in of_arm[BASE].items()]
                logs = mean_estimate([log_ratio(there, here, part) for there, here in pairs])
                row |= columns(f"{part}_ratio", exponential(logs))
        rows.append(row)
    return rows


def difference_rows(arms: Sequence[Arm], finals: Finals) -> list[Row]:
    """A row per compared pair: a − b of the final FID, paired over seeds; the deciding pair first, with an
    interval of its own, the others over the seeds that all have, with intervals that hold for all of them at
    once."""
    names = [arm.name for arm in arms]
    more, *equal = names[names.index(BEST) + 1 :]
    beside = [(REUSE, LONGER), (BEST, LONGER), (more, LONGER), (more, STRATA)]
    beside += [(name, BASE) for name in (REUSE, STRATA, BEST, more)]
    beside += [(name, REUSE) for name in equal]
    least = min(map(len, finals.values()))
    common = {name: fids[:least] for name, fids in finals.items()}
    found = paired_differences(finals, [DECIDING]) | paired_differences(common, beside)
    return [{"arm": a, "against": b, **columns("difference", found[a, b])} for a, b in (DECIDING, *beside)]


def band(finals: Finals) -> float:
    """Two standard deviations over seeds of the final FID of the baseline at equal seconds."""
    return 2 * statistics.stdev(finals[LONGER])


def outcome(difference: Estimate, width: float, base: float, floor: float | None) -> str:
    """What a difference of FID, quiet less noisy, says, as `DESIGN.md` has it.

    Args:
        width: the noisy arm's band, two standard deviations over seeds.
        base: its mean FID.
        floor: FID of real pictures in the generator's place; None where that is not known.
    """
    if difference.high < 0:
        return FOLLOWS
    if difference.low > 0:
        return COSTS
    if floor is not None and base - width <= floor:
        return AT_THE_FLOOR
    return NO_BETTER if max(-difference.low, difference.high) <= width else NOT_RESOLVED


def floor_of(levels: Mapping[str, float]) -> float | None:
    """Of what was measured beside the students."""
    return next((fid for name, fid in levels.items() if name.startswith("floor")), None)


def conclusion(difference: Estimate, width: float, base: float, floor: float | None) -> str:
    """What the deciding comparison says; see :func:`outcome`."""
    said = f"{STRATA} against {LONGER}: FID {show(difference)}, the baseline's band ± {width:.3f}. "
    half = (difference.high - difference.low) / 2
    return (
        said
        + {
            FOLLOWS: "Quality follows variance here.",
            COSTS: "The quieter gradient costs quality here.",
            NO_BETTER: "Less variance and no better FID: the paper's finding.",
            AT_THE_FLOOR: f"Its band reaches the floor, {floor or 0:.3f}: a better one could not be seen.",
            NOT_RESOLVED: f"Not resolved: a difference of {half:.3f} would have been seen half the time.",
        }[outcome(difference, width, base, floor)]
    )


def room(base: float, width: float, levels: Mapping[str, float]) -> str:
    """What the baseline's band lies above, and what it reaches."""
    beside = ", ".join(
        f"{name} {fid:.3f}" + (" (within its band)" if abs(fid - base) <= width else "")
        for name, fid in levels.items()
    )
    return f"FID of {LONGER} {base:.3f} ± {width:.3f}; beside it: {beside}."


def sentences(
    rows: Sequence[Row], differences: Sequence[Row], width: float, levels: Mapping[str, float]
) -> list[str]:
    """The conclusion, what room there was for a better one, the variances, and all comparisons beside it."""
    deciding, *beside = differences
    base = next(row["fid"] for row in rows if row["arm"] == LONGER)
    said = [conclusion(estimate(deciding, "difference"), width, base, floor_of(levels))]
    said.append(room(base, width, levels))
    for row in rows:
        if "total_ratio" in row:
            ratios = {"in total": "total_ratio", "with the samples fixed": "within_ratio"}
            of = {name: estimate(row, key) for name, key in ratios.items()}
            said.append(sentence(f"{row['arm']}, variance of {BASE} over its own", of))
    for row in beside:
        what = f"{row['arm']} against {row['against']}"
        said.append(sentence(what, {"FID": estimate(row, "difference")}, 0, "lower", "higher"))
    return said
