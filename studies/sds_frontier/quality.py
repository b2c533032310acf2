"""CLIP score of text-to-3D against seconds of training, at several (R, K)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from carv_distill.variance import mean_estimate
from carv_distill.variance.estimate import t_quantile
from studies.blocks import block_differences
from studies.claims import show_column
from studies.jobs import Job, read_run, run_jobs
from studies.results import columns
from studies.sds_frontier.prices import Prices

PROMPTS = (
    "a red ball",
    "a cyan cone",
    "a green cube",
    "an orange capsule",
    "a blue snowman",
    "a red torus",
)
COMMON = (
    # A quarter of the default's rates: at those the score is up within 50 steps of any arm.
    "sds.density_lr=0.02",
    "sds.colour_lr=0.0125",
    "preview.every=0",
    "export.frames=8",
    "export.mesh=8",
)
TARGET = 0.6
GRID = 400
"""Times at which curves are compared."""


@dataclass(frozen=True)
class QualityArm:
    """An estimator, and how long it trains."""

    name: str
    upstream: int
    draws: int
    words: tuple[str, ...]
    longer: float = 1.0
    """Updates over those of the baseline: cheap ones are more in the same seconds."""

    def updates(self, baseline: int) -> int:
        """Updates of a training in which the baseline makes so many."""
        return round(self.longer * baseline)

    def job(self, prompt: str, seed: int, baseline: int) -> Job:
        """One run; the CLIP score is measured sixteen times or more, at a multiple of the updates."""
        count = self.updates(baseline)
        name = "".join(c if c.isalnum() else "-" for c in f"{self.name} {prompt}").strip("-")
        sizes = (f"estimator.upstream={self.upstream}", f"estimator.draws={self.draws}")
        ends = (f"trainer.max_steps={count}", f"checkpoint.every={count}")
        every = f"clip.every={max(baseline // 16, 1) * math.ceil(self.longer / 2)}"
        words = (*COMMON, *sizes, *self.words, f"sds.prompt={prompt}", f"seed={seed}", *ends, every)
        return Job(f"{name}-seed{seed}", words)


_PLAIN = ("estimator.strategy=iid", "estimator.proposal=uniform")
_PAIRS = ("estimator.noise=antithetic",)
BASE = "(4,1) uniform"
ARMS = (
    QualityArm(BASE, 4, 1, _PLAIN),
    QualityArm("(1,16) IW+Strat", 1, 16, ()),
    QualityArm(
        "(4,2) IW+nested, antithetic, Sobol cameras",
        4,
        2,
        ("estimator.strategy=nested", *_PAIRS, "camera.sampling=sobol"),
    ),
    QualityArm("(1,2) IW+Strat, antithetic", 1, 2, _PAIRS, longer=4),
    QualityArm("(1,1) uniform", 1, 1, _PLAIN, longer=4),
)


SMALL = (ARMS[3].name, ARMS[4].name)
"""Small steps with the estimator, and plain ones: what is the estimator's, and what is the steps'."""


@dataclass(frozen=True)
class Point:
    """One measurement of the CLIP score; seconds are those of the steps so far, at the study's prices."""

    arm: str
    prompt: str
    seed: int
    step: int
    seconds: float
    score: float


def train(
    folder: Path, config: Path, prompts: Sequence[str], seeds: Sequence[int], updates: int, workers: int
) -> None:
    """All runs; finished ones are kept."""
    jobs = [arm.job(prompt, seed, updates) for seed in seeds for prompt in prompts for arm in ARMS]
    run_jobs(jobs, config, folder, workers, evaluate=False)


def curves(
    folder: Path, prompts: Sequence[str], seeds: Sequence[int], updates: int, prices: Prices
) -> list[Point]:
    """Every measurement of every run."""
    found = []
    for arm in ARMS:
        price = prices(arm.upstream, arm.draws, other=True)
        for prompt in prompts:
            for seed in seeds:
                for row in read_run(folder, arm.job(prompt, seed, updates)):
                    if "clip/score" in row:
                        step = int(row["step"])
                        found.append(Point(arm.name, prompt, seed, step, step * price, row["clip/score"]))
    return found


def on_grid(points: Sequence[Point]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(seconds [T], arm → scores [prompts, seeds, T]): straight lines between measurements, over the
    seconds that the baseline takes; before the first measurement its value, after the last one NaN."""
    whole = max(p.seconds for p in points if p.arm == BASE)
    grid = np.linspace(0, whole, GRID + 1)[1:]
    prompts, seeds = list(dict.fromkeys(p.prompt for p in points)), sorted({p.seed for p in points})
    found = {}
    for arm in dict.fromkeys(p.arm for p in points):
        scores = np.empty((len(prompts), len(seeds), GRID))
        for i, prompt in enumerate(prompts):
            for j, seed in enumerate(seeds):
                mine = [p for p in points if (p.arm, p.prompt, p.seed) == (arm, prompt, seed)]
                scores[i, j] = np.interp(
                    grid, [p.seconds for p in mine], [p.score for p in mine], right=np.nan
                )
        found[arm] = scores
    return grid, found


def share_to_reach(scores: np.ndarray, base: np.ndarray, share: float) -> float:
    """Seconds until an arm's mean score is what the baseline has reached at `share` of its seconds, over the
    seconds until the baseline itself reaches it; infinity if it never is.

    Of both curves it is the highest score so far that counts: on a plateau a noisy curve crosses its own end
    early, and dividing by all of the baseline's seconds would take that for speed.

    Args:
        scores, base: mean curves on the grid, [T].
        share: in (0, 1].
    """
    best, reached = np.fmax.accumulate(scores), np.maximum.accumulate(base)
    level = reached[round(share * GRID) - 1]
    above = np.flatnonzero(best >= level)
    return float((above[0] + 1) / (np.flatnonzero(reached >= level)[0] + 1)) if len(above) else math.inf


def _interval(
    scores: np.ndarray, base: np.ndarray, share: float, seed: int, resamples: int = 2000
) -> tuple[float, float, float]:
    """Share to reach, with a 95 % bootstrap interval: prompts are drawn anew, and seeds within them."""
    prompts, seeds = scores.shape[:2]
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        i = rng.integers(prompts, size=(prompts, 1))
        j = rng.integers(seeds, size=(prompts, seeds))
        found.append(share_to_reach(scores[i, j].mean((0, 1)), base[i, j].mean((0, 1)), share))
    low, high = np.quantile(found, [0.025, 0.975], method="nearest")
    return share_to_reach(scores.mean((0, 1)), base.mean((0, 1)), share), float(low), float(high)


def summarise(points: Sequence[Point], seed: int, prices: Prices) -> list[dict[str, Any]]:
    """A row per arm: the score at the end of the baseline's seconds and on average over them, and how soon it
    reaches what the baseline has in the end, and at half time.

    Seeds are averaged first: intervals are over prompts. Those of differences hold for all arms at once.

    Raises:
        ValueError: an arm's training is shorter than the baseline's.
    """
    _, found = on_grid(points)
    if short := [arm for arm, scores in found.items() if np.isnan(scores).any()]:
        raise ValueError(f"arm {short[0]} ends before the baseline's seconds are over")
    base = found[BASE]
    means = {arm: scores.mean((1, 2)).tolist() for arm, scores in found.items()}
    others = [arm for arm in found if arm != BASE]
    pairs = [(arm, BASE) for arm in others]
    differences = block_differences(means, [*pairs, SMALL])
    rows = []
    for arm in ARMS:
        scores = found[arm.name]
        row: dict[str, Any] = {
            "arm": arm.name,
            "R": arm.upstream,
            "K": arm.draws,
            "updates": max(p.step for p in points if p.arm == arm.name),
            "seconds_per_update": prices(arm.upstream, arm.draws, other=True),
            "runs": scores.shape[0] * scores.shape[1],
            **columns("score_end", mean_estimate(scores[:, :, -1].mean(1).tolist())),
            **columns("score_mean", mean_estimate(means[arm.name])),
        }
        for name, share in (("final", 1.0), ("half", 0.5)):
            values = _interval(scores, base, share, seed)
            for key, value in zip(("", "_low", "_high"), values, strict=True):
                row[f"share_to_{name}{key}"] = value if math.isfinite(value) else None
        if arm.name in others:
            row |= columns("score_mean_difference", differences[arm.name, BASE])
        if arm.name == SMALL[0]:
            row |= columns("score_mean_difference_plain", differences[SMALL])
        rows.append(row)
    return rows


def verdict(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How soon each arm is where the baseline ends, beside the target."""
    base = rows[0]
    said = [
        f"Quality, {base['runs']} runs of each arm at a quarter of the default's learning rates: "
        f"{base['arm']} ends at a CLIP score of {show_column(base, 'score_end')} after {base['updates']} "
        "updates."
    ]
    for row in rows[1:]:
        value, high, low = row["share_to_final"], row["share_to_final_high"], row["share_to_final_low"]
        if value is not None and high is not None and high <= TARGET:
            sense = f"within {TARGET:g}"
        elif low is None or low > TARGET:
            sense = f"not within {TARGET:g}"
        else:
            sense = f"not resolved from {TARGET:g}"
        said.append(
            f"{row['arm']} is where it ends after {_reached(row, 'share_to_final')} of its seconds "
            f"({sense}), and where it is at half time after {_reached(row, 'share_to_half')}"
            f"{_in_updates(row, base)}; mean score over the seconds "
            f"{show_column(row, 'score_mean_difference')} against its, final score "
            f"{show_column(row, 'score_end')}."
        )
        if row["arm"] == SMALL[0]:
            said.append(
                f"{SMALL[0]} against {SMALL[1]}: mean score over the seconds "
                f"{show_column(row, 'score_mean_difference_plain')}."
            )
    return said


def _in_updates(row: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """How many more updates that takes."""
    if row["share_to_half"] is None:
        return ""
    cheaper = base["seconds_per_update"] / row["seconds_per_update"]
    return f", in {row['share_to_half'] * cheaper:.2f} times its updates"


def _reached(row: Mapping[str, Any], name: str) -> str:
    value, low, high = (row[name + k] for k in ("", "_low", "_high"))
    if value is None:
        return "more than all"
    ends = [f"{v:.2f}" if v is not None else "never" for v in (low, high)]
    return f"{value:.2f} [{ends[0]}, {ends[1]}]"


def bands(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean [T], half width of its 95 % interval [T]) for these prompts: only seeds are a source of error, as
    prompts, which differ far more, are the same in all arms.

    Raises:
        ValueError: a single seed.
    """
    prompts, seeds = scores.shape[:2]
    if seeds < 2:
        raise ValueError("an interval over seeds needs two of them, found 1")
    degrees = prompts * (seeds - 1)
    squares = ((scores - scores.mean(1, keepdims=True)) ** 2).sum((0, 1))
    se = np.sqrt(squares / degrees / (prompts * seeds))
    return scores.mean((0, 1)), t_quantile(0.975, degrees) * se
