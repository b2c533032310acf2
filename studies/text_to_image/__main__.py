"""One-step students of the miniature Stable Diffusion: variance of their gradient, and adapters.

    python -m studies.text_to_image [--quick] [--part variance adapters]

variance  (8,1) iid, (8,16) iid and (8,16) stratified, early and late in one training: in total and with the
          student's samples fixed, effective compute at own seconds, and what `evaluate.py variance` advises.
adapters  All weights against LoRA of rank 16 at equal seconds, rates of LoRA by a pilot: Fréchet distance
          over seeds.

The design, written before the runs, is DESIGN.md beside this file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict

from carv_distill.command_line import whole_number
from studies.study import Study, run_study, study_parser


def run_variance(study: Study, options: argparse.Namespace) -> None:
    """Trains one student, measures its checkpoints, and asks for advice."""
    from studies.runs import train_all
    from studies.text_to_image import adapters, variance

    steps = (60,) if study.quick else (60, 300)
    state = adapters.training(adapters.FULL, steps[-1], seed=0)
    train_all([state], adapters.CONFIG, study.runs, workers=1, ranges=3)
    folder, pairs = study.runs / state.name, 4 if study.quick else options.pairs
    measured = variance.measure_states(folder, steps, pairs, study.runs, options.workers)
    seconds = variance.seconds_of_arms(folder, 3 if study.quick else 20)
    rows, advice = variance.ratio_rows(measured, seconds), variance.advise(folder, study.quick, study.runs, 1)
    sentences = [*variance.sentences(measured, rows), *advice["conclusions"]]
    study.seeds = [0]
    study.write("variance", rows, verdict=sentences, seconds_of_arms=seconds, pairs=pairs, advice=advice)
    study.write("states", variance.state_rows(measured))
    print("\n".join(sentences))


def run_adapters(study: Study, options: argparse.Namespace) -> None:
    """Pilot, trainings, comparison."""
    from studies.runs import train_all
    from studies.text_to_image import adapters

    updates, tried = (60, 30) if study.quick else (options.updates, 60)
    plan = adapters.pilot(study.runs, tried, options.workers)
    runs = adapters.arms(plan, updates, study.seeds)
    by_seed = [run for pair in zip(*runs.values(), strict=True) for run in pair]
    train_all(by_seed, adapters.CONFIG, study.runs, options.workers, ranges=3)
    rows = adapters.summarise(adapters.read(runs, study.runs), runs, plan, study.runs)
    sentences = adapters.sentences(rows)
    study.write("adapters", rows, verdict=sentences, plan=asdict(plan))
    print("\n".join(sentences))


def run(study: Study, options: argparse.Namespace) -> None:
    """Both parts, or one."""
    seeds = study.seeds
    if "variance" in options.part:
        run_variance(study, options)
    study.seeds = seeds
    if "adapters" in options.part:
        run_adapters(study, options)


def main(words: Sequence[str] | None = None) -> int:
    """The study from its command line."""
    parser = study_parser(__doc__, parts=("variance", "adapters"), trains=True, updates=150, seeds=3)
    parser.add_argument(
        "--pairs", type=whole_number(3), default=24, help="pairs of gradients for each measurement (24)"
    )
    return run_study("text_to_image", parser, run, words)


if __name__ == "__main__":
    sys.exit(main())
