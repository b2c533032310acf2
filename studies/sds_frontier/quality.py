"""CLIP score of text-to-3D against seconds of training, at several (R, K)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from carv_distill.variance import mean_estimate
from carv_distill.variance.estimate import student
from studies.intervals import block_differences
from studies.runs import TrainingRun, plain_name, train_all
from studies.sds_frontier.prices import Prices
from studies.sentences import estimate, sentence
from studies.study import Row, columns

CONFIG = Path("configs/sds_carv.yaml")
PROMPTS = ("a red ball", "a cyan cone", "a green cube", "an orange capsule", "a blue snowman", "a red torus")
FIELD = (
    "sds.opaque=0",
    "sds.colour_smoothness=0",
    "teacher.path=checkpoints/shapes-teacher",
    "clip.model=checkpoints/shapes-teacher/clip",
    "camera.elevation=[-10,45]",
)
"""Field, teacher and cameras as they were when the study was measured; the default has others since."""
COMMON = (
    *FIELD,
    # A quarter of the default's rates: at those the score is up within 50 steps of any arm.
    "sds.density_lr=0.02",
    "sds.colour_lr=0.0125",
    "preview.every=0",
    "export.frames=8",
    "export.mesh=8",
)
SHARE = 0.6
"""Of the baseline's seconds, that was hoped for."""
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

    def run(self, prompt: str, seed: int, baseline: int) -> TrainingRun:
        """One training; the CLIP score is measured sixteen times or more, at a multiple of the updates."""
        count = self.updates(baseline)
        sizes = (f"estimator.upstream={self.upstream}", f"estimator.draws={self.draws}")
        ends = (f"trainer.max_steps={count}", f"checkpoint.every={count}")
        every = f"clip.every={max(baseline // 16, 1) * math.ceil(self.longer / 2)}"
        words = (*COMMON, *sizes, *self.words, f"sds.prompt={prompt}", f"seed={seed}", *ends, every)
        return TrainingRun(f"{plain_name(f'{self.name} {prompt}')}-seed{seed}", words)


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


def train(folder: Path, prompts: Sequence[str], seeds: Sequence[int], updates: int, workers: int) -> None:
    """All runs; finished ones stay."""
    runs = [arm.run(prompt, seed, updates) for seed in seeds for prompt in prompts for arm in ARMS]
    train_all(runs, CONFIG, folder, workers)


def curves(
    folder: Path, prompts: Sequence[str], seeds: Sequence[int], updates: int, prices: Prices
) -> pd.DataFrame:
    """Every measurement of every run: arm, prompt, seed, step, score, and seconds of the steps so far, at the
    study's prices."""
    runs = []
    for arm in ARMS:
        for prompt in prompts:
            for seed in seeds:
                metrics = arm.run(prompt, seed, updates).metrics(folder).dropna(subset="clip/score")
                place = pd.DataFrame({"arm": arm.name, "prompt": prompt, "seed": seed, "step": metrics.step})
                price = prices.step(arm.upstream, arm.draws)
                runs.append(place.assign(seconds=metrics.step * price, score=metrics["clip/score"]))
    return pd.concat(runs, ignore_index=True)


def on_grid(points: pd.DataFrame) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(seconds [T], arm → scores [prompts, seeds, T]): straight lines between measurements, over the
    seconds that the baseline takes; before the first measurement its value, after the last one NaN."""
    grid = np.linspace(0, points[points.arm == BASE].seconds.max(), GRID + 1)[1:]

    def by_seed(runs: pd.DataFrame) -> list[np.ndarray]:
        return [np.interp(grid, run.seconds, run.score, right=np.nan) for _, run in runs.groupby("seed")]

    by_arm = points.groupby("arm", sort=False)
    return grid, {
        str(arm): np.array([by_seed(runs) for _, runs in mine.groupby("prompt", sort=False)])
        for arm, mine in by_arm
    }


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
    shares = []
    for _ in range(resamples):
        i = rng.integers(prompts, size=(prompts, 1))
        j = rng.integers(seeds, size=(prompts, seeds))
        shares.append(share_to_reach(scores[i, j].mean((0, 1)), base[i, j].mean((0, 1)), share))
    low, high = np.quantile(shares, [0.025, 0.975], method="nearest")
    return share_to_reach(scores.mean((0, 1)), base.mean((0, 1)), share), float(low), float(high)


def summarise(points: pd.DataFrame, seed: int, prices: Prices) -> list[Row]:
    """A row per arm: the score at the end of the baseline's seconds and on average over them, and how soon it
    reaches what the baseline has in the end, and at half time.

    Seeds are averaged first: intervals are over prompts. Those of differences hold for all arms at once.

    Raises:
        ValueError: an arm's training is shorter than the baseline's.
    """
    _, by_arm = on_grid(points)
    if short := [arm for arm, scores in by_arm.items() if np.isnan(scores).any()]:
        raise ValueError(f"arm {short[0]} ends before the baseline's seconds are over")
    means = {arm: scores.mean((1, 2)).tolist() for arm, scores in by_arm.items()}
    pairs = [(arm, BASE) for arm in by_arm if arm != BASE]
    differences = block_differences(means, [*pairs, SMALL])
    rows = []
    for arm in ARMS:
        scores = by_arm[arm.name]
        row: Row = {
            "arm": arm.name,
            "R": arm.upstream,
            "K": arm.draws,
            "updates": int(points[points.arm == arm.name].step.max()),
            "seconds_per_update": prices.step(arm.upstream, arm.draws),
            "runs": scores.shape[0] * scores.shape[1],
            **columns("score_end", mean_estimate(scores[:, :, -1].mean(1).tolist())),
            **columns("score_mean", mean_estimate(means[arm.name])),
        }
        for name, share in (("final", 1.0), ("half", 0.5)):
            values = _interval(scores, by_arm[BASE], share, seed)
            for key, value in zip(("", "_low", "_high"), values, strict=True):
                row[f"share_to_{name}{key}"] = value if math.isfinite(value) else None
        if (arm.name, BASE) in differences:
            row |= columns("score_mean_difference", differences[arm.name, BASE])
        if arm.name == SMALL[0]:
            row |= columns("score_mean_difference_plain", differences[SMALL])
        rows.append(row)
    return rows


def verdict(rows: Sequence[Row]) -> list[str]:
    """How soon each arm is where the baseline ends, beside what was hoped for."""
    base = rows[0]
    ends = {row["arm"]: estimate(row, "score_end") for row in rows}
    apart = {row["arm"]: estimate(row, "score_mean_difference") for row in rows[1:]}
    small = next(row for row in rows if row["arm"] == SMALL[0])
    plain = {SMALL[0]: estimate(small, "score_mean_difference_plain")}
    rates = f"{base['runs']} runs of each arm at a quarter of the default's learning rates"
    sentences = [
        sentence(f"CLIP score at the end of the baseline's {base['updates']} updates, {rates}", ends)
    ]
    for row in rows[1:]:
        low, high = (row[name] or math.inf for name in ("share_to_final_low", "share_to_final_high"))
        sense = "within" if high <= SHARE else "not within" if low > SHARE else "not resolved from"
        cheaper = base["seconds_per_update"] / row["seconds_per_update"]
        half = row["share_to_half"]
        updates = "" if half is None else f" ({half * cheaper:.2f} of its updates)"
        sentences.append(
            f"Share of {base['arm']}'s seconds until {row['arm']} is where that ends: "
            f"{_reached(row, 'share_to_final')}, {sense} {SHARE:g}; where that is at half time: "
            f"{_reached(row, 'share_to_half')}{updates}."
        )
    sentences.append(
        sentence(f"Mean score over the seconds against {base['arm']}", apart, 0, "lower", "higher")
    )
    return [
        *sentences,
        sentence(f"Mean score over the seconds against {SMALL[1]}", plain, 0, "lower", "higher"),
    ]


def _reached(row: Row, name: str) -> str:
    ends = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    value, low, high = ("never" if end is None else f"{end:.2f}" for end in ends)
    return f"{value} [{low}, {high}]"


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
    return scores.mean((0, 1)), student(0, 1, degrees).high * se
