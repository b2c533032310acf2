"""Why FID does not follow the variance of the student's gradient.

    python -m studies.dmd_bottleneck [--quick] [--workers 2] [--part exact digits]

Two parts.

exact     A Gaussian teacher and a student whose density is known (`gaussian_dmd`): the error of the
          student's gradient is split into Monte-Carlo variance and what the fake score's error adds, along
          the training; students trained with the exact fake score are the control. Quality is the squared
          Wasserstein distance to the data.
digits    The main job, one lever at a time at equal compute (network calls): R, K, fake updates per student
          update, learning rates, EMA. Which one moves FID? --updates are those of the default settings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from studies.study import Study, run_study, study_parser


def run(study: Study, options: argparse.Namespace) -> None:
    """Both parts, or the one asked for."""
    from studies.dmd_bottleneck import exact, levers
    from studies.runs import train_all

    sentences = []
    if "exact" in options.part:
        updates, every = (60, 20) if study.quick else (2000, 100)
        points, arrivals = exact.train(study.seeds, updates, every)
        rows = exact.summarise(points, arrivals, updates)
        sentences += (own := exact.verdict(rows))
        study.write("exact", rows, verdict=own)
        study.write("exact_traces", points)
        study.draw("exact", exact.draw_exact(points))
    if "digits" in options.part:
        budget = 30 if study.quick else options.updates
        runs = {lever: [lever.run(seed, budget) for seed in study.seeds] for lever in levers.LEVERS}
        by_seed = [run for same_seed in zip(*runs.values(), strict=True) for run in same_seed]
        train_all(by_seed, levers.CONFIG, study.runs, options.workers, ranges=1 if study.quick else 3)
        fids = {lever.name: [run.fid(study.runs) for run in own] for lever, own in runs.items()}
        rows = levers.summarise(fids, budget)
        sentences += (own := levers.verdict(rows))
        study.write("digits", rows, verdict=own)
        study.draw("digits", levers.draw_levers(rows))
    print("\n".join(sentences))


def main(words: Sequence[str] | None = None) -> int:
    """The study from its command line."""
    parser = study_parser(__doc__, parts=("exact", "digits"), trains=True, updates=300, seeds=3)
    return run_study("dmd_bottleneck", parser, run, words)


if __name__ == "__main__":
    sys.exit(main())
