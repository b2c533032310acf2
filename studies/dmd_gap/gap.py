"""The arms with their pilot, ratios of variance and differences of FID, and the picture of them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from carv_distill.carv import stream
from carv_distill.errors import UserError
from carv_distill.figures import BLUE, GREEN, GREY, ORANGE, RED, new_figure
from carv_distill.variance import NoiseParity, StageTimer, mean_estimate
from studies.cached import once
from studies.gradient import load_gradient, one_thread, price
from studies.intervals import exponential, paired_differences
from studies.plots import draw_curve, plain_numbers
from studies.runs import TrainingRun, plain_name, seconds_per_update, train_all
from studies.sentences import estimate, sentence
from studies.study import Row, columns, filled

CONFIG = Path("configs/dmd_carv.yaml")
COMMON = (
    "dmd.lr_decay=none",
    "fid.labels=turn",  # steadier: arms are compared with each other
    "trainer.log_every=10",
    "checkpoint.every=100",
    "checkpoint.keep_best=0",
)


EVERY = 25
"""Updates between two FIDs."""


@dataclass(frozen=True)
class Plan:
    """Of the pilot. Seconds are of one thread, as the study's runs use."""

    upstream: int
    """R' of (R',1) iid: its gradient takes the seconds of (8,16)."""
    noise: str
    """The noise coupling of the best arm."""
    base: float
    """Seconds of one update at (8,1)."""
    reuse: float
    """Seconds of one update at (8,16)."""
    more: float
    """Seconds of one update at (R',1)."""

    @property
    def longer(self) -> float:
        """How many times more updates (8,1) makes in the seconds of (8,16)."""
        return self.reuse / self.base


@dataclass(frozen=True)
class Arm:
    """An estimator, and for how many updates it runs."""

    name: str
    words: tuple[str, ...]
    updates: int
    seconds: float
    """Of one update, as the pilot timed it."""

    def run(self, seed: int) -> TrainingRun:
        """Its training with one seed."""
        words = (*COMMON, *self.words, f"seed={seed}", f"trainer.max_steps={self.updates}")
        return TrainingRun(f"{plain_name(self.name)}-seed{seed}", words)


def estimator_words(r: int, k: int, strategy: str) -> tuple[str, ...]:
    """What an estimator overrides of the configuration."""
    return (f"estimator.upstream={r}", f"estimator.draws={k}", f"estimator.strategy={strategy}")


def make_arms(updates: int, plan: Plan, every: int) -> list[Arm]:
    """The five arms; the first is the baseline. Variance and FID are measured every few updates."""
    traces = (f"variance.every={2 * every}", f"fid.every={every}")

    def arm(name: str, r: int, k: int, strategy: str, count: int, seconds: float, *words: str) -> Arm:
        return Arm(name, (*estimator_words(r, k, strategy), *traces, *words), count, seconds)

    longer = round(updates * plan.longer / every) * every
    best = (f"estimator.noise={plan.noise}", "estimator.proposal=adaptive", "estimator.statistic=neyman")
    return [
        arm("(8,1) iid", 8, 1, "iid", longer, plan.base),
        arm("(8,16) iid", 8, 16, "iid", updates, plan.reuse),
        arm("(8,16) stratified", 8, 16, "stratified", updates, plan.reuse),
        arm("(8,16) best", 8, 16, "nested", updates, plan.reuse, *best),
        arm(f"({plan.upstream},1) iid", plan.upstream, 1, "iid", updates, plan.more),
    ]


def pilot(folder: Path, updates: int) -> Plan:
    """Trains one (8,16) stratified student aside, with a seed that is not the study's, and measures it.

    The plan stays in `plan.json`, so that a study that goes on has the same arms.
    """
    words = (*estimator_words(8, 16, "stratified"), "variance.every=0", "fid.every=0", "preview.every=0")
    run = TrainingRun("pilot-seed12345", (*COMMON, *words, "seed=12345", f"trainer.max_steps={updates}"))
    train_all([run], CONFIG, folder, workers=1)
    return once(folder / "plan.json", Plan, lambda: make_plan(folder / run.name))


def make_plan(run: Path) -> Plan:
    """Times a trained run on one thread and measures the parity of its noise."""
    gradient = load_gradient(run)
    key = stream("parity", gradient.step)
    parity = NoiseParity.measure(gradient.pipeline, gradient.parameters, key, upstreams=48, draws=16)

    def seconds(upstream: int, draws: int) -> float:
        return price(gradient, upstream, draws, repeats=20)(upstream, draws)

    with one_thread():
        timer = StageTimer()
        for _ in range(2):
            gradient.time_other(timer)
        other, reuse = timer.median("other"), seconds(8, 16)
        upstream = equal_upstream(reuse, lambda r: seconds(r, 1), 8, 8 * 17)
        more = seconds(upstream, 1)
        return Plan(upstream, parity.gate(), other + seconds(8, 1), other + reuse, other + more)


def equal_upstream(wanted: float, seconds: Callable[[int], float], low: int, high: int) -> int:
    """The largest R in low … high whose gradient takes at most the wanted seconds, by bisection."""
    while low < high:
        middle = (low + high + 1) // 2
        if seconds(middle) <= wanted:
            low = middle
        else:
            high = middle - 1
    return low


PARTS = ("total", "within", "between", "squared_norm")


def read_runs(arms: Sequence[Arm], seeds: Sequence[int], folder: Path) -> pd.DataFrame:
    """All metrics under short names, with arm, seed, and `price`: seconds so far as the pilot timed them."""
    runs = []
    for arm in arms:
        for seed in seeds:
            metrics = arm.run(seed).metrics(folder)
            runs.append(metrics.assign(arm=arm.name, seed=seed, price=metrics.step * arm.seconds))
    short = {f"variance/carv/{part}": part for part in PARTS} | {"fid/fid": "fid"}
    return pd.concat(runs, ignore_index=True).rename(columns=short)


def trace_rows(metrics: pd.DataFrame) -> list[Row]:
    """All measurements: arm, seed, update, seconds of training, variance and FID."""
    chosen = metrics[["arm", "seed", "step", "price", *PARTS, "fid"]].rename(columns={"price": "seconds"})
    return filled(chosen.dropna(subset=[*PARTS, "fid"], how="all"))


def log_ratio(base: pd.DataFrame, arm: pd.DataFrame, name: str) -> float:
    """Mean over training of log(base/arm) of a variance, at the updates at which both were measured.

    A variance from 8 pairs has a logarithm 1 to 4 % too low on average, and the baseline's most: a ratio of
    them errs by some 2 %, far less than its interval.
    """
    there, here = (run.set_index("step")[name].dropna() for run in (base, arm))
    return statistics.fmean(math.log(ratio) for ratio in (there / here).dropna())


def late_fid(run: pd.DataFrame, updates: int) -> float:
    """Mean FID over the last third of so many updates."""
    late = run[(run.step > updates * 2 / 3) & (run.step <= updates)]
    return statistics.fmean(late.fid.dropna())


def of_runs(
    arms: Sequence[Arm], metrics: pd.DataFrame, fids: Mapping[str, Sequence[float]]
) -> dict[str, Row]:
    """What the table takes from the runs themselves, by arm: the seconds of an update as logged, and the
    FID of finished students (`fids`, by arm and seed)."""
    return {
        arm.name: {
            "seconds_per_update_logged": statistics.median(
                seconds_per_update(run) for _, run in metrics[metrics.arm == arm.name].groupby("seed")
            ),
            "final_fid_three_ranges": statistics.fmean(fids[arm.name]),
        }
        for arm in arms
    }


@dataclass(frozen=True)
class Stored:
    """A finished study, from its own results."""

    arms: list[Arm]
    metrics: pd.DataFrame
    measured: dict[str, Row]
    """As :func:`of_runs` has it."""
    updates: int
    plan: Plan
    trained: Row
    """Command, machine, commit and seconds of the trainings."""
    seeds: list[int]

    @classmethod
    def load(cls, folder: Path) -> Stored:
        """From `dmd_gap.json` and `traces.json`.

        Raises:
            UserError: they are not there.
        """
        try:
            table, traces = (json.loads((folder / f"{n}.json").read_text()) for n in ("dmd_gap", "traces"))
        except FileNotFoundError as error:
            raise UserError(f"{error.filename}: no such results; run the study without --stored") from error
        plan, rows = Plan(**table["plan"]), {row["arm"]: row for row in table["rows"]}
        updates = min(row["updates"] for row in rows.values())
        names = ("seconds_per_update_logged", "final_fid_three_ranges")
        measured = {name: {key: row[key] for key in names} for name, row in rows.items()}
        trained = {key: table[key] for key in ("command", "machine", "git", "seconds")}
        metrics = pd.DataFrame(traces["rows"]).rename(columns={"seconds": "price"})
        arms = make_arms(updates, plan, EVERY)
        return cls(arms, metrics, measured, updates, plan, table.get("trained", trained), table["seeds"])


def summarise(
    arms: Sequence[Arm], metrics: pd.DataFrame, measured: Mapping[str, Row], updates: int
) -> list[Row]:
    """A row per arm: ratios of variance against the baseline, differences of FID, over seeds.

    FID is the mean of its trace over the last third of a training. At equal seconds every arm has its own
    training, the baseline its longer one; at equal updates the baseline's stops where the others do. All
    differences of one kind hold at once, and none takes its variance from another pair, as the baseline's FID
    scatters twice as much as the others' (:func:`paired_differences`). `fid_difference_more` is at equal
    seconds too, against the arm that spends them on samples. `measured`: see :func:`of_runs`.
    """
    base, *others = arms
    more = others[-1]
    runs = {arm.name: [run for _, run in metrics[metrics.arm == arm.name].groupby("seed")] for arm in arms}
    ends = {arm.name: [late_fid(run, arm.updates) for run in runs[arm.name]] for arm in arms}
    stops = ends | {base.name: [late_fid(run, updates) for run in runs[base.name]]}
    to_base = [(arm.name, base.name) for arm in others]
    to_more = [(arm.name, more.name) for arm in others[:-1]]
    same_updates = paired_differences(stops, to_base)
    same_seconds = paired_differences(ends, [*to_base, *to_more])
    rows = []
    for arm in arms:
        row: Row = {
            "arm": arm.name,
            "updates": arm.updates,
            "seconds_per_update": arm.seconds,
            **measured[arm.name],
        }
        for part in ("total", "within"):
            pairs = zip(runs[base.name], runs[arm.name], strict=True)
            logs = mean_estimate([log_ratio(there, here, part) for there, here in pairs])
            row |= columns(f"{part}_ratio", exponential(logs))
        row |= columns("fid", mean_estimate(ends[arm.name]))
        for name, differences, other in (
            ("equal_updates", same_updates, base),
            ("equal_seconds", same_seconds, base),
            ("more", same_seconds, more),
        ):
            if (arm.name, other.name) in differences:
                row |= columns(f"fid_difference_{name}", differences[arm.name, other.name])
        rows.append(row)
    return rows


def verdict(rows: Sequence[Row]) -> list[str]:
    """What the numbers say, two sentences per arm."""
    base, more = rows[0]["arm"], rows[-1]["arm"]
    sentences = []
    for row in rows[1:]:
        ratios = {"in total": "total_ratio", "with the upstream fixed": "within_ratio"}
        differences = {
            f"at equal updates, than {base}": "fid_difference_equal_updates",
            f"at equal seconds, than {base}": "fid_difference_equal_seconds",
            f"than {more}": "fid_difference_more",
        }
        of = {name: estimate(row, key) for name, key in (ratios | differences).items() if key in row}
        sentences.append(
            sentence(f"{row['arm']}, variance of {base} over its own", {n: of[n] for n in ratios})
        )
        apart = {n: of[n] for n in differences if n in of}
        sentences.append(sentence(f"{row['arm']}, difference of FID", apart, 0, "lower", "higher"))
    return sentences


def draw_gap(traces: Sequence[Row]) -> Figure:
    """Left: total variance (solid) and variance with the upstream fixed (dashed); middle and right: FID.

    Lines are means over seeds (of the logarithm), bands their 95 % intervals.
    """
    figure = new_figure(3.6)
    left, middle, right = figure.subplots(1, 3)
    for (arm, mine), colour in zip(
        pd.DataFrame(traces).groupby("arm", sort=False), (GREY, ORANGE, BLUE, GREEN, RED), strict=True
    ):
        _curve(left, mine, "total", "step", colour, "-", str(arm))
        _curve(left, mine, "within", "step", colour, "--")
        _curve(middle, mine, "fid", "step", colour, "-")
        _curve(right, mine, "fid", "seconds", colour, "-")
    left.set(xlabel="student updates", ylabel="variance of the gradient (trace)")
    middle.set(xlabel="student updates", ylabel="FID of the student")
    right.set(xlabel="seconds, at the pilot's prices", ylabel="FID of the student")
    for axes in (left, middle, right):
        axes.set_yscale("log")
        plain_numbers(axes.yaxis, LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.grid(alpha=0.25)
    left.plot([], [], "k-", lw=1.4, label="total variance")
    left.plot([], [], "k--", lw=1.4, label="its part with the upstream fixed")
    left.fill_between([], [], color="0.7", label="95 % over seeds")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return figure


def _curve(
    axes: Axes, mine: pd.DataFrame, name: str, x: str, colour: str, style: str, label: str | None = None
) -> None:
    measured = mine[mine.step > 0].dropna(subset=name)
    rows = []
    for _, here in measured.groupby("step"):
        mean = exponential(mean_estimate(np.log(here[name]).tolist()))
        rows.append({x: statistics.fmean(here[x]), **columns(name, mean)})
    draw_curve(axes, pd.DataFrame(rows, dtype=float), x, name, colour, label, style, lw=1.4)
