"""How many draws an attribution needs: variance, rankings, dimension, and models trained anew.

    python -m studies.attribution_budget [--quick] [--part draws …] [--workers 2]

draws       variance of a sample's gradient over K = 1 … 64 draws by every sampler, on digits and on the
            latents of a miniature Stable Diffusion; its parts; the norm over noise levels; rank correlation
            of rankings of 11 queries with one of a high budget, each query left out of its own
dimension   one convolutional model on mosaics of ever more digits: what strata are worth over the pixels
retraining  small teachers of random halves of the digits (linear datamodeling score), and without the
            most influential ones of a query

What was computed is kept in --runs, piece by piece, and a study that was interrupted goes on. The paper:
arXiv 2605.21489, table 4 and figure 6.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from carv_distill.cli import whole_number
from carv_distill.errors import UserError
from studies.attribution_budget import figures, tables
from studies.attribution_budget.pieces import measurements, mosaics, retrained
from studies.attribution_budget.work import Workshop
from studies.results import Study, run_study, study_parser

PARTS = ("draws", "dimension", "retraining")


def run(study: Study, arguments: argparse.Namespace) -> None:
    """Computes the parts asked for, writes their tables, figures and sentences."""
    if not Path("checkpoints/digits-teacher").is_dir():
        raise UserError("checkpoints: not in the current folder; start a study at the root of the repository")
    folder = arguments.runs / ("attribution_budget_quick" if study.quick else "attribution_budget")
    work = Workshop(study.quick, folder, arguments.workers, arguments.seed)
    parts = arguments.part or PARTS
    if "draws" in parts:
        _draws(study, measurements(work))
    if "dimension" in parts:
        _dimension(study, mosaics(work))
    if "retraining" in parts:
        _retraining(study, retrained(work))


def _draws(study: Study, found: dict[str, Any]) -> None:
    variance, ranking = tables.variance_rows(found), tables.ranking_rows(found)
    levels, budgets = tables.level_rows(found), tables.budget_rows(found)
    said = tables.draws_verdict(variance, ranking, budgets)
    study.write("variance", variance, verdict=said, samplers=found["samplers"])
    study.write("ranking", ranking)
    study.write("levels", levels, budgets=budgets)
    study.draw("ecm", figures.draw_ecm(variance))
    study.draw("ranking", figures.draw_ranking(ranking))
    study.draw("levels", figures.draw_levels(levels))
    print("\n".join(said))


def _dimension(study: Study, found: dict[int, dict[str, Any]]) -> None:
    rows = tables.dimension_rows(found)
    said = tables.dimension_verdict(rows)
    study.write("dimension", rows, verdict=said)
    study.draw("dimension", figures.draw_dimension(rows))
    print("\n".join(said))


def _retraining(study: Study, found: dict[str, Any]) -> None:
    rows, removal = tables.retraining_rows(found), tables.removal_rows(found)
    said = tables.retraining_verdict(rows, removal)
    study.write("lds", rows, verdict=said)
    study.write("removal", removal)
    study.draw("top", figures.draw_top(found["top"], removal))
    print("\n".join(said))


def main(words: list[str] | None = None) -> int:
    """The study from its command line."""
    parser = study_parser(__doc__)
    parser.add_argument("--part", choices=PARTS, nargs="+", help="default: all")
    parser.add_argument(
        "--workers", type=whole_number(1), default=2, help="pieces side by side, one thread each (2)"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="where pieces are kept")
    return run_study("attribution_budget", parser, run, words)


if __name__ == "__main__":
    sys.exit(main())
