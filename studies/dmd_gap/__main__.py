"""Variance of the student's gradient against FID: does a quieter gradient end in a better student?

    python -m studies.dmd_gap [--data digits fashion text_to_image] [--quick] [--workers 2]

Design, committed before the first run: `studies/dmd_gap/DESIGN.md`. A pilot on other seeds finds how long FID
still falls, each estimator's learning rate, and which R costs what (8,16) costs; then, the same seeds in all:

    (8,1) iid            the baseline, for as many updates and for as many seconds as (8,16)
    (8,16) iid           compute reuse
    (8,16) stratified    and stratified noise levels
    (8,16) best          nested strata, adaptive Neyman proposal, the noise coupling that parity allows
    (R',1) iid           the seconds of (8,16), spent on more samples
    (R'',1) iid          the total variance of (8,16), all of it within the samples (digits)

All begin as the teacher; on fashion from one state late in training, which
`python -m studies.dmd_gap.start` makes.

The part `why` then looks into states of one run: variances as the paper splits them, signal and noise,
and how far the fake score lags behind (`<data>_states.json` and `.png`); `rule` tests whether a run's own
budget says if quality would follow (`rule.json`): `text_to_image` is trained for it alone. `--quick` tries
all parts on digits in half an hour on two free cores, and its numbers say nothing.

The paper (arXiv 2605.21489, one-step distillation) finds 16 and 32 times less variance and no better FID.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from carv_distill.command_line import Extend, whole_number
from carv_distill.errors import UserError
from studies.study import Study, run_study, study_parser

if TYPE_CHECKING:
    from studies.dmd_gap.results import Results
    from studies.dmd_gap.rule import Pair
    from studies.dmd_gap.settings import Setting

DATA = ("digits", "fashion", "text_to_image")


def run(study: Study, options: argparse.Namespace) -> None:
    """Of every data set that is asked for: pilot, all runs, tables, figure, conclusion; then the parts that
    look further, whose hours cost none of these."""
    from studies.dmd_gap.settings import SETTINGS, TEXT_TO_IMAGE, require_teacher

    wanted = [SETTINGS[name].quick if study.quick else SETTINGS[name] for name in options.data]
    if not options.stored:
        for setting in wanted:
            require_teacher(setting)
        if "rule" in options.part:
            _require_rule(study.folder, wanted)
    for setting in wanted:
        if setting.name != TEXT_TO_IMAGE.name:
            _look_into(study, setting, options)
        elif "rule" in options.part and not options.stored:
            _rule_on_prompts(study, setting, options.workers)
    if options.stored and "rule" in options.part and any(study.folder.glob("*_rule.json")):
        _judge(study)


def _look_into(study: Study, setting: Setting, options: argparse.Namespace) -> None:
    """One data set's arms, and the parts that go beyond them."""
    from studies.dmd_gap.results import Results

    if options.stored:
        results = Results.load(setting, study.folder)
    else:
        seeds, deciding = (setting.seeds, setting.deciding)
        if not study.quick:
            seeds, deciding = options.seeds or seeds, options.deciding or deciding
        first = options.seed
        common, pair = range(first, first + seeds), range(first, first + max(seeds, deciding))
        results = Results.train(study, setting, common, pair, options.workers)
    study.seeds = results.seeds
    _conclude(study, setting, results)
    if "why" in options.part:
        _states(study, setting, results, options.workers, options.stored)
    if "rule" in options.part and not options.stored:
        _rule_on_arms(study, setting, results, options.workers)


def _states(study: Study, setting: Setting, results: Results, workers: int, stored: bool) -> None:
    """Of the arm that reuses, first seed; the figure alone where the results are `stored`."""
    from studies.dmd_gap.arms import REUSE
    from studies.dmd_gap.figures import draw_states
    from studies.dmd_gap.states import measure_states

    name = f"{setting.name}_states"
    file = study.folder / f"{name}.json"
    if not stored:
        arm = next(arm for arm in results.arms if arm.name == REUSE)
        steps = [arm.updates // part for part in setting.looked_into]
        study.seeds = results.common[:1]
        run = study.runs / arm.run(study.seeds[0]).name
        study.write(name, measure_states(run, steps, setting.effort, study.runs, workers))
    if file.is_file():
        study.draw(name, draw_states(json.loads(file.read_text())["rows"]))


def _require_rule(folder: Path, wanted: Sequence[Setting]) -> None:
    """What is held to a rule takes one that is fitted: of digits, now or before."""
    held, fitted = [s.name for s in wanted if not s.own_factors], folder / "digits_rule.json"
    if held and wanted[0].name != "digits" and not fitted.is_file():
        raise UserError(
            f"--part rule: {held[0]} is held to the rule of digits, and {fitted} is not there; "
            "--data digits fashion makes it first, --part arms why leaves the rule out"
        )


def _rule_on_arms(study: Study, setting: Setting, results: Results, workers: int) -> None:
    from studies.dmd_gap import rule
    from studies.dmd_gap.table import floor_of

    pairs = rule.pairs_on(setting, results.plan, results.arms)
    _rule(study, setting, pairs[:2] if study.quick else pairs, floor_of(results.levels), workers)


def _rule_on_prompts(study: Study, setting: Setting, workers: int) -> None:
    from studies.dmd_gap import rule

    _rule(study, setting, rule.pairs_of_prompts(16 if study.quick else None), None, workers)


def _rule(study: Study, setting: Setting, pairs: Sequence[Pair], floor: float | None, workers: int) -> None:
    """A data set's settings, trained and measured, into `<data>_rule.json`; and all that are known judged."""
    from studies.dmd_gap import rule

    seeds = rule.SEEDS[:2] if study.quick else rule.SEEDS
    study.seeds = list(seeds)
    rule.train(pairs, seeds, study.runs, workers)
    study.write(f"{setting.name}_rule", rule.measure(pairs, seeds, study.runs, workers, floor, study.quick))
    _judge(study)


def _judge(study: Study) -> None:
    """Every data set's settings by the rule that is fitted on digits."""
    from studies.dmd_gap import rule

    known = [json.loads(path.read_text()) for path in sorted(study.folder.glob("*_rule.json"))]
    study.seeds = sorted({seed for of_data in known for seed in of_data["seeds"]})
    borders, rows = rule.judge([row for of_data in known for row in of_data["rows"]])
    said = rule.sentences(borders, rows)
    study.write("rule", rows, borders=borders, conclusion=said)
    print("\n".join(said))


def _conclude(study: Study, setting: Setting, results: Results) -> None:
    from studies.dmd_gap import table
    from studies.dmd_gap.figures import draw_gap

    rows = table.arm_rows(results.arms, results.traces, results.finals)
    differences = table.difference_rows(results.arms, results.finals)
    width = table.band(results.finals)
    said = [*table.sentences(rows, differences, width, results.levels), *results.left_out]
    study.write(
        setting.name, rows, conclusion=said, differences=differences, band=width, levels=results.levels
    )
    study.draw(setting.name, draw_gap(results.traces, results.runs, width, results.levels))
    print("\n".join([setting.name, *said]))


def main(words: Sequence[str] | None = None) -> int:
    """The study from its command line."""
    parser = study_parser(__doc__, parts=("arms", "why", "rule"), trains=True)
    add = parser.add_argument
    add("--data", choices=DATA, nargs="+", action=Extend, default=("digits",), help="default: digits")
    add("--seeds", type=whole_number(2), help="of trainings, without --quick (digits 6, fashion 4)")
    add("--deciding", type=whole_number(2), help="of the pair that decides (digits 12, fashion 8)")
    add("--stored", action="store_true", help="tables and figure anew from the results; no training")
    return run_study("dmd_gap", parser, run, words)


if __name__ == "__main__":
    sys.exit(main())
