"""Variance of the student's gradient against FID: does a quieter gradient make a better student?

    python -m studies.dmd_gap [--quick] [--workers 2]

Arms on digits, the same seeds in all:

    (8,1) iid            the baseline, run on until it has spent the seconds of (8,16)
    (8,16) iid           compute reuse
    (8,16) stratified    and stratified noise levels
    (8,16) best          nested strata, adaptive Neyman proposal, the noise coupling that parity allows
    (R',1) iid           the seconds of (8,16), spent on more upstream samples

--updates are those of the (8,16) arms. The learning rate stays constant, so that a quieter gradient has its
best chance to show. The paper (arXiv 2605.21489, one-step distillation) finds
10–30 times less variance and no better FID.

Differences of FID are paired over seeds, each with its own variance, and hold for all arms at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from studies.study import Study, run_study, study_parser


def run(study: Study, options: argparse.Namespace) -> None:
    """Pilot, all runs, tables, figure, verdict."""
    from dataclasses import asdict

    from studies.dmd_gap import gap
    from studies.runs import train_all

    if options.stored:
        known = gap.Stored.load(study.folder)
        study.seeds = known.seeds
        rows = gap.summarise(known.arms, known.metrics, known.measured, known.updates)
        sentences = gap.verdict(rows)
        study.write("dmd_gap", rows, verdict=sentences, plan=asdict(known.plan), trained=known.trained)
        print("\n".join(sentences))
        return
    updates, every = (60, 10) if study.quick else (options.updates, gap.EVERY)
    plan = gap.pilot(study.runs, updates)
    arms = gap.make_arms(updates, plan, every)
    runs = [arm.run(seed) for seed in study.seeds for arm in arms]
    train_all(runs, gap.CONFIG, study.runs, options.workers, ranges=3)
    metrics = gap.read_runs(arms, study.seeds, study.runs)
    fids = {arm.name: [arm.run(seed).fid(study.runs) for seed in study.seeds] for arm in arms}
    rows = gap.summarise(arms, metrics, gap.of_runs(arms, metrics, fids), updates)
    traces = gap.trace_rows(metrics)
    sentences = gap.verdict(rows)
    study.write("dmd_gap", rows, verdict=sentences, plan=asdict(plan))
    study.write("traces", traces)
    study.draw("dmd_gap", gap.draw_gap(traces))
    print("\n".join(sentences))


def main(words: Sequence[str] | None = None) -> int:
    """The study from its command line."""
    parser = study_parser(__doc__, trains=True, updates=400, seeds=5)
    parser.add_argument("--stored", action="store_true", help="the table anew from the results; no training")
    return run_study("dmd_gap", parser, run, words)


if __name__ == "__main__":
    sys.exit(main())
