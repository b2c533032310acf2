"""Whether text-to-3D from the wild teacher lies where reuse pays, and under which cameras.

    python -m studies.sds_regime [--quick] [--part gate cameras worth race]

gate     W/B of a single draw at every state, backgrounds and colours per draw and per render; κ.
cameras  The same under wider cameras.
worth    Effective compute of reuse, importance and strata at own seconds, the paper's figures beside them.
race     Trainings at equal price, (4, 1) uniform against (1, K): likeness to the known solid over seconds.

The design, written before the runs, is DESIGN.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from carv_distill.errors import UserError
from studies.study import Study, run_study, study_parser

if TYPE_CHECKING:
    import pandas as pd

    from studies.sds_frontier.prices import Prices


def run(study: Study, options: argparse.Namespace) -> None:
    """All parts, or those asked for."""
    measured = [part for part in options.part if part != "race"]
    if measured:
        run_measurements(study, options)
    if "race" in options.part:
        stored_race(study, options) if options.stored else run_race(study, options)


def run_race(study: Study, options: argparse.Namespace) -> None:
    """Trains every arm, and compares their curves."""
    from studies.gradient import load_gradient
    from studies.sds_frontier.prices import measure_prices
    from studies.sds_regime import figures, race
    from studies.study import filled

    prompts, seeds, updates = list(race.PROMPTS), list(race.SEEDS), race.UPDATES
    if study.quick:
        prompts, seeds, updates = prompts[:2], seeds[:2], 2 * race.EVERY
    study.seeds = seeds
    race.train(study.runs, prompts, seeds, updates, options.workers)
    timed = study.runs / race.BASE.run(prompts[0], seeds[0], updates).name
    prices = measure_prices(load_gradient(timed), [(r.upstream, r.draws) for r in race.RACERS])
    points = race.points(study.runs, prompts, seeds, updates, prices, options.workers)
    study.write("likeness", filled(points))
    study.draw("race", figures.draw_race(points))
    conclude_race(study, points, prices, options.seed)


def stored_race(study: Study, options: argparse.Namespace) -> None:
    """The race's table anew, from the curves and prices among the results."""
    import pandas as pd

    from studies.sds_frontier.prices import Prices

    paths = [study.folder / f"{name}.json" for name in ("likeness", "race")]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such results; run the part without --stored")
    curves, known = (json.loads(path.read_text()) for path in paths)
    study.seeds = known["seeds"]
    conclude_race(study, pd.DataFrame(curves["rows"]), Prices(**known["prices"]), options.seed)


def conclude_race(study: Study, points: pd.DataFrame, prices: Prices, seed: int) -> None:
    """Table and sentences."""
    from studies.sds_regime import race

    rows = race.rows_of(points, prices, seed)
    sentences = race.verdict(rows)
    study.write("race", rows, verdict=sentences, prices=asdict(prices))
    print("\n".join(sentences))


def run_measurements(study: Study, options: argparse.Namespace) -> None:
    """Gate, worth and cameras, from the same trainings."""
    from studies.runs import train_all
    from studies.sds_regime import cells, figures, worth

    prompts, steps = (cells.PROMPTS[:1], (50, 150)) if study.quick else (cells.PROMPTS, cells.STEPS)
    renders = 16 if study.quick else 100
    runs = [cells.training(p, s, steps[-1]) for s in study.seeds for p in prompts]
    train_all(runs, cells.CONFIG, study.runs, options.workers)
    if "gate" in options.part:
        gate = cells.gate_cells(prompts, study.seeds, steps)
        measured = cells.measure_all(study.runs, gate, renders, options.workers)
        kappas = {p: cells.kappa(study.runs, cells.Cell(p, study.seeds[0], steps[-1]), 20) for p in prompts}
        sentences = cells.verdict(measured, prompts, study.seeds, kappas)
        shapes = cells.shapes(study.runs, prompts, study.seeds, options.workers)
        found = {"verdict": sentences, "kappa": kappas, "shapes": shapes, "renders": renders}
        study.write("gate", cells.rows_of(measured), **found)
        study.draw("gate", figures.draw_gate(measured))
        print("\n".join(sentences))
    if "worth" in options.part:
        study.seeds = study.seeds[:1]
        late = steps[-1:] if study.quick else worth.STEPS
        states = [cells.Cell(p, study.seeds[0], t) for p in prompts for t in late]
        compared = worth.measure_all(study.runs, states, 4 if study.quick else 32, options.workers)
        seconds = worth.prices(study.runs, states[-1], 3 if study.quick else 20)
        rows = worth.rows_of(compared, seconds)
        pairs = 4 if study.quick else 96
        same = worth.ANEW, seconds, pairs, options.workers
        again = worth.confirm_all(study.runs, states, *same)
        beside = worth.confirm_all(study.runs, worth.per_render(states), *same)
        sentences = worth.verdict(rows, compared, again, beside)
        found = {"seconds_of_gradients": seconds, "anew": again, "anew_per_render": beside}
        study.write("worth", rows, verdict=sentences, **found)
        study.draw("worth", figures.draw_worth(rows))
        print("\n".join(sentences))
    if "cameras" in options.part:
        study.seeds = study.seeds[:1]
        wide = cells.camera_cells(prompts, study.seeds[0], cells.MAPPED)
        near = [cells.Cell(p, study.seeds[0], cells.MAPPED) for p in prompts]
        mapped = cells.measure_all(study.runs, [*near, *wide], renders, options.workers)
        sentences = cells.camera_rows(mapped)
        study.write("cameras", cells.rows_of(mapped), verdict=sentences, renders=renders)
        study.draw("cameras", figures.draw_cameras(mapped))
        print("\n".join(sentences))


def main(words: Sequence[str] | None = None) -> int:
    """The study from its command line."""
    parser = study_parser(__doc__, parts=("gate", "cameras", "worth", "race"), trains=True, seeds=2)
    parser.add_argument("--stored", action="store_true", help="the race's table anew, from the results")
    return run_study("sds_regime", parser, run, words)


if __name__ == "__main__":
    sys.exit(main())
