"""Text-to-3D: what reuse, importance, strata and cameras are worth, in variance and in quality.

    python -m studies.sds_frontier [--quick] [--part variance|quality|both]

variance  Three objects, each at an early and a late checkpoint: the variance of the field's gradient under
          every sampler of draws (K = 1 … 16) and of cameras (R = 2 … 16), and effective compute against
          uniform (2, 1), at measured and at declared costs.
          `best` has nested strata, and a Neyman proposal and a noise coupling measured at that checkpoint
          by pilots that are not in its costs.
quality   CLIP score against seconds of training for six prompts, at a quarter of the default's learning
          rates: (4, 1) uniform, the baseline; the paper's (1, 16), whose steps cost about as much there and
          more here; (4, 2) with all that lowers variance; and small steps, (1, 2) and plain (1, 1).

Pairs are (R, K): renders of a step, re-noisings of each. The paper's (arXiv 2605.21489) tables 1 and 2 and
its text-to-3D figures, in small.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from carv_distill.cli import whole_number
from studies.jobs import Job, add_run_options, run_jobs
from studies.results import Study, columns, run_study, study_parser
from studies.sds_frontier.figures import draw_cameras, draw_frontier, draw_quality
from studies.sds_frontier.prices import Prices, measure_prices
from studies.sds_frontier.quality import ARMS as QUALITY_ARMS
from studies.sds_frontier.quality import PROMPTS as QUALITY_PROMPTS
from studies.sds_frontier.quality import curves, summarise, train
from studies.sds_frontier.quality import verdict as quality_verdict
from studies.sds_frontier.states import (
    DRAWS,
    RENDERS,
    Confirmation,
    State,
    confirm,
    measure_state,
    read_confirmation,
    read_state,
)
from studies.sds_frontier.tables import rows, state_rows
from studies.sds_frontier.verdict import confirmed, highest, verdict

CONFIG = Path("configs/sds_carv.yaml")
PROMPTS = ("a red ball", "a green cube", "a blue snowman")
STEPS = (25, 400)
"""Early, when the object takes shape, and late."""
QUICK_STEPS = (25, 50)


def state_job(prompt: str, steps: tuple[int, int]) -> Job:
    """A run by the default settings that keeps its early checkpoint."""
    early, late = steps
    words = (
        f"sds.prompt={prompt}",
        f"trainer.max_steps={late}",
        f"checkpoint.every={early}",
        "checkpoint.keep_newest=99",
        "clip.every=0",
        "preview.every=0",
    )
    return Job(f"state-{prompt.replace(' ', '-')}", words)


def places() -> list[tuple[int, int]]:
    """All (R, K) that have a price."""
    return [
        *((2, k) for k in DRAWS),
        *((RENDERS[-1], k) for k in (1, 2, 4, 8)),
        *((arm.upstream, arm.draws) for arm in QUALITY_ARMS),
    ]


def measure_states(
    folder: Path, quick: bool, workers: int, pairs: int
) -> tuple[list[State], Prices, tuple[int, int, str], list[Confirmation]]:
    """Trains, times, measures, and measures what looked best once more; what is there already is kept."""
    prompts, steps = (PROMPTS[:1], QUICK_STEPS) if quick else (PROMPTS, STEPS)
    sizes = ((1, 8), (2, 8)) if quick else (DRAWS, RENDERS)
    jobs = [state_job(prompt, steps) for prompt in prompts]
    run_jobs(jobs, CONFIG, folder, workers, evaluate=False)
    prices = measure_prices(folder / jobs[0].name, places(), folder / "prices.json")
    at = [(folder / job.name, step) for job in jobs for step in steps]
    kept = [folder / f"{run.name}-{step}.json" for run, step in at]
    work(measure_state, [(*a, pairs, k, *sizes) for a, k in zip(at, kept, strict=True)], workers)
    states = [read_state(path) for path in kept]
    place = highest(states, prices)
    again = [folder / f"{run.name}-{step}-again.json" for run, step in at]
    tasks = zip(at, states, again, strict=True)
    work(confirm, [(*a, s.noise, place, max(3 * pairs // 2, 3), k) for a, s, k in tasks], workers)
    return states, prices, place, [read_confirmation(path) for path in again]


def work(function: Callable[..., None], tasks: Sequence[tuple[Any, ...]], workers: int) -> None:
    """Calls of a function, side by side in processes of one thread each."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for number, done in enumerate([pool.submit(function, *task) for task in tasks], 1):
            done.result()
            print(f"{function.__name__}: {number} of {len(tasks)}", flush=True)


def run_variance(study: Study, arguments: argparse.Namespace, folder: Path) -> list[str]:
    """The first part; its sentences."""
    study.use_seeds([0])  # of the runs that are measured
    pairs = 6 if study.quick else arguments.pairs
    states, prices, place, again = measure_states(folder, study.quick, arguments.workers, pairs)
    table = rows(states, prices)
    said = verdict(states, table, prices, place, again)
    found = {
        "R": place[0],
        "K": place[1],
        "cameras": place[2],
        **columns("ecm", confirmed(again, place, prices)),
    }
    study.write("variance", table, verdict=said, prices=asdict(prices), pairs=pairs, highest=found)
    study.write("states", state_rows(states))
    study.draw("variance", draw_frontier([r for r in table if r["states"] == "all"], prices.kappa))
    study.draw("cameras", draw_cameras([r for r in table if r["states"] == "all"]))
    return said


def run_quality(study: Study, arguments: argparse.Namespace, folder: Path) -> list[str]:
    """The second part; its sentences."""
    seeds = [arguments.seed + i for i in range(2 if study.quick else arguments.seeds)]
    study.use_seeds(seeds)
    updates = 40 if study.quick else arguments.updates
    prompts = QUALITY_PROMPTS[:2] if study.quick else QUALITY_PROMPTS
    timed = state_job(PROMPTS[0], QUICK_STEPS if study.quick else STEPS)
    run_jobs([timed], CONFIG, folder, 1, evaluate=False)
    train(folder, CONFIG, prompts, seeds, updates, arguments.workers)
    prices = measure_prices(folder / timed.name, places(), folder / "prices.json")
    found = curves(folder, prompts, seeds, updates, prices)
    table = summarise(found, arguments.seed, prices)
    said = quality_verdict(table)
    study.write("quality", table, verdict=said, prices=asdict(prices))
    study.write("clip", [asdict(point) for point in found])
    study.draw("quality", draw_quality(found))
    return said


def run(study: Study, arguments: argparse.Namespace) -> None:
    """Both parts, or one."""
    folder = arguments.runs / ("sds_frontier_quick" if study.quick else "sds_frontier")
    said: list[str] = []
    if arguments.part in ("variance", "both"):
        said += run_variance(study, arguments, folder)
    if arguments.part in ("quality", "both"):
        said += run_quality(study, arguments, folder)
    print("\n".join(said))


def main(words: list[str] | None = None) -> int:
    """The study from its command line."""
    parser = study_parser(__doc__)
    parser.add_argument("--part", choices=("variance", "quality", "both"), default="both")
    parser.add_argument(
        "--pairs", type=whole_number(3), default=20, help="pairs of gradients for each measurement (20)"
    )
    add_run_options(parser, updates=120, seeds=3)
    return run_study("sds_frontier", parser, run, words)


if __name__ == "__main__":
    sys.exit(main())
