"""Training at equal price from the wild teacher: how like its solid an object is, over seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from carv_distill.engine.checkpoints import load_checkpoint
from carv_distill.files import read_json
from carv_distill.tasks import TASKS, open_run
from carv_distill.text_to_3d.module import SDSModule
from carv_distill.variance import Estimate
from studies.cached import once, quiet_once
from studies.intervals import block_differences
from studies.likeness import likeness, outlines_of, standard_views
from studies.runs import TrainingRun, plain_name, train_all
from studies.sds_frontier.prices import Prices
from studies.sds_regime.cells import CONFIG
from studies.sentences import estimate, sentence
from studies.side_by_side import side_by_side
from studies.study import Row, columns

PROMPTS = ("a ball", "a cylinder", "a torus", "a cube", "a cone", "a mug")
SEEDS = (2, 3, 4)
UPDATES, EVERY = 360, 20
"""Of the baseline, and between two measurements of its likeness."""
K = 18
"""Draws of a step with one render that costs what one of (4, 1) costs."""
RATE = 0.02
NEAR = 0.98
"""Of the baseline's plateau: what counts as there."""
GRID = 400
"""Times at which curves are compared."""
Curves = Mapping[str, np.ndarray]
"""arm → likeness [prompts, seeds, times]."""


@dataclass(frozen=True)
class Racer:
    """An estimator, and how many updates it makes in the seconds of the baseline's."""

    name: str
    upstream: int
    draws: int
    words: tuple[str, ...]
    longer: int = 1
    seeds: int = 1
    """How many of the study's seeds it trains with, from the first."""

    def run(self, prompt: str, seed: int, updates: int) -> TrainingRun:
        """One training, with its checkpoints."""
        sizes = (f"estimator.upstream={self.upstream}", f"estimator.draws={self.draws}")
        rates = (f"sds.density_lr={RATE}", f"sds.colour_lr={RATE}")
        every = EVERY * self.longer
        ends = (
            f"trainer.max_steps={updates * self.longer}",
            f"checkpoint.every={every}",
            f"clip.every={every}",
        )
        quiet = ("preview.every=0", "export.frames=8", "export.mesh=8", "checkpoint.keep_newest=99")
        words = (f"sds.prompt={prompt}", f"seed={seed}", *sizes, *self.words, *rates, *ends, *quiet)
        return TrainingRun(f"race-{plain_name(f'{self.name} {prompt}')}-seed{seed}", words)


_PLAIN = ("estimator.strategy=iid", "estimator.proposal=uniform")
BASE = Racer("(4,1) uniform", 4, 1, _PLAIN, seeds=len(SEEDS))
RACERS = (
    BASE,
    Racer(f"(1,{K}) IW+Strat", 1, K, (), seeds=len(SEEDS)),
    Racer("(1,1) uniform", 1, 1, _PLAIN, longer=4),
    Racer(f"(1,{K}) uniform", 1, K, _PLAIN),
    Racer(
        f"(1,{K}) adaptive, antithetic", 1, K, ("estimator.proposal=adaptive", "estimator.noise=antithetic")
    ),
)
DECIDING = RACERS[1].name


def train(folder: Path, prompts: Sequence[str], seeds: Sequence[int], updates: int, workers: int) -> None:
    """All trainings, seed by seed; finished ones stay."""
    runs = [racer.run(p, s, updates) for racer, p, s in trainings(prompts, seeds)]
    train_all(runs, CONFIG, folder, workers)


def trainings(prompts: Sequence[str], seeds: Sequence[int]) -> list[tuple[Racer, str, int]]:
    """Arm, prompt and seed of each."""
    return [(r, p, s) for i, s in enumerate(seeds) for r in RACERS if i < r.seeds for p in prompts]


def likeness_of(run: Path, solid: str) -> list[tuple[int, float]]:
    """(step, mean intersection over union with the solid) at the start and at every checkpoint."""
    task, config = open_run(run)
    module = TASKS[task.name].prepare(config, "cpu", 1).module
    assert isinstance(module, SDSModule)
    views = standard_views()
    steps = sorted(int(p.stem.split("=")[1]) for p in (run / "checkpoints").glob("newest-step=*.ckpt"))
    found = []
    for step in (0, *steps):
        if step:
            load_checkpoint(module, run, config, "cpu", step)
        found.append((step, likeness(outlines_of(module.scene, views), solid, views).iou))
    return found


@dataclass(frozen=True)
class Likenesses:
    """Of a run to its solid."""

    step: list[int]
    iou: list[float]
    """Mean intersection over union of outlines."""


def measure_likeness(run: Path, updates: int, solid: str) -> None:
    """:func:`likeness_of` a run of so many updates, kept beside it: who has this needs no checkpoints."""

    def measure() -> Likenesses:
        quiet_once()
        found = likeness_of(run, solid)
        return Likenesses([step for step, _ in found], [iou for _, iou in found])

    once(_likeness_file(run, updates), Likenesses, measure)


def _likeness_file(run: Path, updates: int) -> Path:
    return run / f"likeness-{updates}.json"


def points(
    folder: Path, prompts: Sequence[str], seeds: Sequence[int], updates: int, prices: Prices, workers: int
) -> pd.DataFrame:
    """Every measurement of every training: arm, prompt, seed, step, seconds at the study's prices, likeness
    and CLIP score."""
    runs = [(racer, p, s, racer.run(p, s, updates)) for racer, p, s in trainings(prompts, seeds)]
    paths = [(folder / run.name, updates * racer.longer) for racer, _, _, run in runs]
    solids = [prompt.split()[-1] for _, prompt, _, _ in runs]
    side_by_side(
        [partial(measure_likeness, *path, solid) for path, solid in zip(paths, solids, strict=True)], workers
    )
    tables = []
    for (racer, prompt, seed, run), path in zip(runs, paths, strict=True):
        found = read_json(_likeness_file(*path))
        table = pd.DataFrame({"step": found["step"], "likeness": found["iou"]})
        scores = run.metrics(folder).dropna(subset="clip/score").set_index("step")["clip/score"]
        seconds = table.step * prices.step(racer.upstream, racer.draws)
        place = {"arm": racer.name, "prompt": prompt, "seed": seed}
        tables.append(table.assign(**place, seconds=seconds, clip=table.step.map(scores)))
    return pd.concat(tables, ignore_index=True)


def on_grid(measured: pd.DataFrame, column: str) -> tuple[np.ndarray, Curves]:
    """(seconds [T], curves): straight lines between measurements, over the seconds that the baseline takes;
    an arm that ends a little before it keeps its last value."""
    grid = np.linspace(0, measured[measured.arm == BASE.name].seconds.max(), GRID + 1)[1:]
    curves = {}
    for racer in RACERS:
        mine = measured[measured.arm == racer.name]
        curves[racer.name] = np.array(
            [
                [_along(grid, run.dropna(subset=column), column) for _, run in of_prompt.groupby("seed")]
                for _, of_prompt in mine.groupby("prompt", sort=False)
            ]
        )
    return grid, curves


def _along(grid: np.ndarray, run: pd.DataFrame, column: str) -> np.ndarray:
    return np.interp(grid, run.seconds, run[column])


def share_to_plateau(arm: np.ndarray, base: np.ndarray) -> float:
    """The time at which a mean curve first reaches NEAR times the baseline's mean over the last half of its
    seconds, over the time at which the baseline itself does; infinity if it never does.

    Args:
        arm, base: mean curves on the grid, [T].
    """
    level = NEAR * base[len(base) // 2 :].mean()
    there, own = np.flatnonzero(arm >= level), np.flatnonzero(base >= level)
    return float((there[0] + 1) / (own[0] + 1)) if len(there) else np.inf


def share_interval(
    arm: np.ndarray, base: np.ndarray, seed: int, resamples: int = 2000
) -> tuple[float, float, float]:
    """:func:`share_to_plateau` of [prompts, seeds, T], with a 95 % bootstrap interval: prompts are drawn
    anew, and seeds within them, the same for both."""
    prompts, seeds = arm.shape[:2]
    rng, shares = np.random.default_rng(seed), []
    for _ in range(resamples):
        i = rng.integers(prompts, size=(prompts, 1))
        j = rng.integers(seeds, size=(prompts, seeds))
        shares.append(share_to_plateau(arm[i, j].mean((0, 1)), base[i, j].mean((0, 1))))
    low, high = np.quantile(shares, [0.025, 0.975], method="nearest")
    value = share_to_plateau(arm.mean((0, 1)), base.mean((0, 1)))
    return value, float(low), float(high)


def plateaus(curves: Curves) -> dict[str, list[float]]:
    """arm → mean over the last half of the seconds and over the seeds, by prompt."""
    return {arm: values[:, :, values.shape[2] // 2 :].mean((1, 2)).tolist() for arm, values in curves.items()}


def plateau_differences(curves: Curves) -> dict[str, Estimate]:
    """arm → its plateau less the baseline's over the same seeds, with intervals over prompts that hold at
    once for all arms of as many seeds."""
    found: dict[str, Estimate] = {}
    for count in {curves[racer.name].shape[1] for racer in RACERS[1:]}:
        names = [r.name for r in RACERS[1:] if curves[r.name].shape[1] == count]
        base = {BASE.name: curves[BASE.name][:, :count]}
        level = plateaus({name: curves[name] for name in names} | base)
        apart = block_differences(level, [(name, BASE.name) for name in names])
        found |= {name: e for (name, _), e in apart.items()}
    return found


def rising(curves: Curves, measured: pd.DataFrame) -> Curves:
    """Without the prompts whose field starts above the level that is to be reached: these tell no two arms
    apart. (A later look: the start is a ball, and "a ball" is among the prompts.)"""
    base = measured[measured.arm == BASE.name]
    starts = [run[run.step == 0].likeness.mean() for _, run in base.groupby("prompt", sort=False)]
    levels = NEAR * np.array(plateaus(curves)[BASE.name])
    kept = np.flatnonzero(np.array(starts) < levels)
    return {name: values[kept] for name, values in curves.items()}


def rows_of(measured: pd.DataFrame, prices: Prices, seed: int) -> list[Row]:
    """A row for every arm: its price, its plateau in likeness and CLIP score against the baseline's over
    prompts, and how soon it is where the baseline's plateau is, of all prompts and of the rising ones."""
    _, likenesses = on_grid(measured, "likeness")
    risen = rising(likenesses, measured)
    _, scores = on_grid(measured, "clip")
    level, clip = plateaus(likenesses), plateaus(scores)
    apart, clip_apart = plateau_differences(likenesses), plateau_differences(scores)
    rows = []
    for racer in RACERS:
        row: Row = {"arm": racer.name, "R": racer.upstream, "K": racer.draws}
        row["seeds"] = likenesses[racer.name].shape[1]
        row["seconds_per_update"] = prices.step(racer.upstream, racer.draws)
        row["plateau"], row["clip_plateau"] = (
            float(np.mean(level[racer.name])),
            float(np.mean(clip[racer.name])),
        )
        if racer is not BASE:
            row |= columns("plateau_difference", apart[racer.name])
            row |= columns("clip_difference", clip_apart[racer.name])
            for name, curves in (("share_to_plateau", likenesses), ("share_of_rising", risen)):
                own, base = curves[racer.name], curves[BASE.name]
                shares = share_interval(own, base[:, : own.shape[1]], seed)
                for end, value in zip(("", "_low", "_high"), shares, strict=True):
                    row[f"{name}{end}"] = value if np.isfinite(value) else None
            row["rising_prompts"] = len(risen[BASE.name])
        rows.append(row)
    return rows


def verdict(rows: Sequence[Row]) -> list[str]:
    """How soon every arm is on the baseline's plateau, and where its own lies."""
    base = rows[0]
    said = [
        f"Likeness on the plateau of {BASE.name}: {base['plateau']:.3f}; CLIP {base['clip_plateau']:.1f}."
    ]
    for row in rows[1:]:
        (value, low, high), risen = (_ends(row, n) for n in ("share_to_plateau", "share_of_rising"))
        paid = row["seconds_per_update"] / base["seconds_per_update"]
        mark = ", the deciding comparison" if row["arm"] == DECIDING else ""
        said.append(
            f"{row['arm']}, {paid:.2f} of the price of an update: on that plateau after {value} "
            f"[{low}, {high}] of its seconds{mark}; of the {row['rising_prompts']} prompts that start below "
            f"it {risen[0]} [{risen[1]}, {risen[2]}] (a later look)."
        )
    by_arm = {row["arm"]: estimate(row, "plateau_difference") for row in rows[1:]}
    return [*said, sentence(f"Likeness on the plateau against {BASE.name}", by_arm, 0, "lower", "higher")]


def _ends(row: Row, name: str) -> list[str]:
    """A share and the ends of its interval."""
    ends = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return ["never" if end is None else f"{end:.2f}" for end in ends]
