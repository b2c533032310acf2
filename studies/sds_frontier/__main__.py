"""Text-to-3D: what reuse, importance, strata and cameras are worth, in variance and in quality.

    python -m studies.sds_frontier [--quick] [--part variance quality]

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
from collections.abc import Sequence
from dataclasses import asdict

from carv_distill.command_line import whole_number
from studies.study import Study, run_study, study_parser


def run_variance(study: Study, options: argparse.Namespace) -> None:
    """Trains, times, measures, and measures what looked best once more."""
    import pandas as pd

    from studies.sds_frontier import figures, states, worth
    from studies.study import columns

    pairs = 6 if study.quick else options.pairs
    study.seeds = [0]  # of the runs that are measured
    objects = states.Objects(study.runs, study.quick, options.workers)
    objects.train()
    prices = objects.prices()
    measured, budgets, noises = objects.measure(pairs)
    best = worth.highest(measured, prices)
    again = objects.confirm(best, noises, max(3 * pairs // 2, 3))
    rows = worth.ecm_rows(measured, prices)
    sentences = worth.verdict(measured, budgets, rows, prices, best, again)
    highest = dict(zip(("R", "K", "cameras"), best, strict=True))
    highest |= columns("ecm", worth.confirmed(again, best, prices))
    study.write("variance", rows, verdict=sentences, prices=asdict(prices), pairs=pairs, highest=highest)
    study.write("states", worth.state_rows(measured))
    table = pd.DataFrame([row for row in rows if row["states"] == "all"])
    study.draw("variance", figures.draw_frontier(table, prices.kappa))
    study.draw("cameras", figures.draw_cameras(table))
    print("\n".join(sentences))


def run_quality(study: Study, options: argparse.Namespace) -> None:
    """Trains every arm, and compares their curves."""
    from studies.sds_frontier import figures, quality, states
    from studies.study import filled

    updates = 40 if study.quick else options.updates
    prompts = quality.PROMPTS[:2] if study.quick else quality.PROMPTS
    objects = states.Objects(study.runs, study.quick, options.workers)
    objects.train(only_first=True)
    quality.train(study.runs, prompts, study.seeds, updates, options.workers)
    prices = objects.prices()
    points = quality.curves(study.runs, prompts, study.seeds, updates, prices)
    rows = quality.summarise(points, options.seed, prices)
    sentences = quality.verdict(rows)
    study.write("quality", rows, verdict=sentences, prices=asdict(prices))
    study.write("clip", filled(points))
    study.draw("quality", figures.draw_quality(points))
    print("\n".join(sentences))


def run(study: Study, options: argparse.Namespace) -> None:
    """Both parts, or one."""
    seeds = study.seeds
    if "variance" in options.part:
        run_variance(study, options)
    study.seeds = seeds
    if "quality" in options.part:
        run_quality(study, options)


def main(words: Sequence[str] | None = None) -> int:
    """The study from its command line."""
    parser = study_parser(__doc__, parts=("variance", "quality"), trains=True, updates=120, seeds=3)
    parser.add_argument(
        "--pairs", type=whole_number(3), default=20, help="pairs of gradients for each measurement (20)"
    )
    return run_study("sds_frontier", parser, run, words)


if __name__ == "__main__":
    sys.exit(main())
