"""Why FID does not follow the variance of the student's gradient.

    python -m carv_distill.studies.dmd_bottleneck [--quick] [--workers 2] [--part exact|digits]

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
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.progress import track

from carv_distill.carv import mean_estimate

from .bottleneck_figures import draw_exact, draw_levers
from .exact_dmd import ExactArm, ExactDMD
from .jobs import add_run_options, run_jobs
from .levers import CONFIG, LEVERS, lever_rows
from .results import Study, columns, run_study, study_parser

ESTIMATORS = ((8, 1, "iid"), (8, 16, "stratified"), (64, 16, "stratified"))
FAKE_UPDATES = (0, 1, 3, 10)


def exact_arms() -> list[ExactArm]:
    """Every estimator against the exact and against learned fake scores."""
    return [
        ExactArm(
            f"({r},{k}) {strategy}, {f'{n} fake updates' if n else 'exact fake score'}", r, k, strategy, n
        )
        for n in FAKE_UPDATES
        for r, k, strategy in ESTIMATORS
    ]


def exact_points(
    arms: Sequence[ExactArm], seeds: Sequence[int], updates: int, every: int
) -> list[dict[str, Any]]:
    """Distance and parts of the gradient's error along every training."""
    points = []
    for arm, seed in track([(a, s) for a in arms for s in seeds], "exact"):
        run = ExactDMD(arm, seed)
        for step in range(1, updates + 1):
            run.update()
            if step % every == 0:
                errors = run.errors()
                points.append(
                    {
                        "arm": arm.name,
                        "estimator": f"({arm.upstream},{arm.draws}) {arm.strategy}",
                        "fake_updates": arm.fake_updates,
                        "seed": seed,
                        "step": step,
                        "distance": run.distance,
                        "gradient": errors.gradient,
                        "monte_carlo": errors.monte_carlo,
                        "fake": errors.fake,
                    }
                )
    return points


def exact_rows(
    points: Sequence[Mapping[str, Any]], arms: Sequence[ExactArm], updates: int
) -> list[dict[str, Any]]:
    """Means over the last half of the training, over seeds: distance, and each error over ‖g*‖²."""
    rows = []
    for arm in arms:
        late = [p for p in points if p["arm"] == arm.name and p["step"] > updates / 2]
        seeds = sorted({p["seed"] for p in late})

        def over_seeds(
            name: str, late: list[Mapping[str, Any]] = late, seeds: list[int] = seeds
        ) -> list[float]:
            return [statistics.fmean(p[name] for p in late if p["seed"] == s) for s in seeds]

        rows.append(
            {
                "arm": arm.name,
                **columns("distance", mean_estimate(over_seeds("distance"), positive=True)),
                **columns("monte_carlo", mean_estimate(over_seeds("monte_carlo"), positive=True)),
                **columns("fake", mean_estimate(over_seeds("fake"))),
                **columns("gradient", mean_estimate(over_seeds("gradient"))),
            }
        )
    return rows


def exact_verdict(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each fake score: what the quieter estimators do to the distance, beside what its error adds."""
    said = []
    for number, n in enumerate(FAKE_UPDATES):
        base, *others = rows[3 * number : 3 * number + 3]
        name = f"{n} fake updates" if n else "exact fake score"
        for (r, k, strategy), other in zip(ESTIMATORS[1:], others, strict=True):
            variance = base["monte_carlo"] / other["monte_carlo"]
            share = other["fake"] / other["monte_carlo"]
            said.append(
                f"{name}: ({r},{k}) {strategy} has {variance:.3g} times less variance than (8,1) iid; "
                f"the distance goes from {base['distance']:.3g} to {other['distance']:.3g}; "
                f"the fake score's error is {share:.3g} times that variance"
            )
    return said


def run(study: Study, arguments: argparse.Namespace) -> None:
    """Both parts, or the one asked for."""
    seeds = [arguments.seed + i for i in range(2 if study.quick else arguments.seeds)]
    sentences = []
    if arguments.part in ("exact", "both"):
        updates, every = (60, 20) if study.quick else (2000, 200)
        arms = exact_arms()
        points = exact_points(arms, seeds, updates, every)
        rows = exact_rows(points, arms, updates)
        sentences += (said := exact_verdict(rows))
        study.write("exact", rows, verdict=said, training_seeds=seeds)
        study.write("exact_traces", points)
        study.draw("exact", draw_exact(points, ESTIMATORS, FAKE_UPDATES))
    if arguments.part in ("digits", "both"):
        folder = arguments.runs / ("dmd_bottleneck_quick" if study.quick else "dmd_bottleneck")
        budget = 30 if study.quick else arguments.updates
        jobs = [lever.job(seed, budget) for seed in seeds for lever in LEVERS]
        run_jobs(jobs, CONFIG, folder, arguments.workers, ranges=1 if study.quick else 3)
        found, said = lever_rows(folder, seeds, budget)
        sentences += said
        study.write("digits", found, verdict=said, training_seeds=seeds)
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
