"""Why FID does not follow the variance of the student's gradient.

    python -m studies.dmd_bottleneck [--quick] [--workers 2] [--part exact|digits]

Two parts.

exact     A Gaussian teacher and a student whose density is known (:mod:`.exact_dmd`): the error of the
          student's gradient is split into Monte-Carlo variance and what the fake score's error adds, along
          the training; students trained with the exact fake score are the control. Quality is the squared
          Wasserstein distance to the data.
digits    The main job, one lever at a time at equal compute (network calls): R, K, fake updates per student
          update, learning rates, EMA. Which one moves FID? --updates are those of the default settings.
"""

from __future__ import annotations

import argparse
import sys

from studies.bottleneck_figures import draw_exact, draw_levers
from studies.exact_control import exact_points, exact_rows, exact_verdict
from studies.jobs import add_run_options, run_jobs
from studies.levers import CONFIG, LEVERS, lever_rows
from studies.results import Study, run_study, study_parser


def run(study: Study, arguments: argparse.Namespace) -> None:
    """Both parts, or the one asked for."""
    seeds = [arguments.seed + i for i in range(2 if study.quick else arguments.seeds)]
    study.use_seeds(seeds)
    sentences = []
    if arguments.part in ("exact", "both"):
        updates, every = (60, 20) if study.quick else (2000, 100)
        points, arrivals = exact_points(seeds, updates, every)
        rows = exact_rows(points, arrivals, updates)
        sentences += (said := exact_verdict(rows))
        study.write("exact", rows, verdict=said)
        study.write("exact_traces", points)
        study.draw("exact", draw_exact(points))
    if arguments.part in ("digits", "both"):
        folder = arguments.runs / ("dmd_bottleneck_quick" if study.quick else "dmd_bottleneck")
        budget = 30 if study.quick else arguments.updates
        jobs = [lever.job(seed, budget) for seed in seeds for lever in LEVERS]
        run_jobs(jobs, CONFIG, folder, arguments.workers, ranges=1 if study.quick else 3)
        found, said = lever_rows(folder, seeds, budget)
        sentences += said
        study.write("digits", found, verdict=said)
        study.draw("digits", draw_levers(found))
    print("\n".join(sentences))


def main(words: list[str] | None = None) -> int:
    """The study from its command line."""
    parser = study_parser(__doc__)
    parser.add_argument("--part", choices=("exact", "digits", "both"), default="both")
    add_run_options(parser, updates=300, seeds=3)
    return run_study("dmd_bottleneck", parser, run, words)


if __name__ == "__main__":
    sys.exit(main())
