"""python evaluate.py variance: where a gradient's variance comes from, and what to do about it."""

from __future__ import annotations

import argparse
from pathlib import Path

from carv_distill.cli import whole_number

from .command import Command, Found, add_run_option


def _options(parser: argparse.ArgumentParser) -> None:
    add_run_option(parser)
    parser.add_argument("--upstream", type=whole_number(1), default=8, help="R of every sampler (8)")
    parser.add_argument(
        "--draws", type=whole_number(1), nargs="+", default=[1, 2, 4, 8, 16], help="K (1 2 4 8 16)"
    )
    parser.add_argument("--pairs", type=whole_number(3), default=16, help="pairs of gradients per row (16)")
    parser.add_argument(
        "--samples", type=whole_number(3), default=32, help="upstream samples of the budget (32)"
    )


def _measure(arguments: argparse.Namespace, run: Path, device: str) -> Found:
    from .variance_analysis import AccountingOptions, account
    from .variance_figures import draw_accounting
    from .variance_report import accounting_dict, accounting_report

    options = AccountingOptions(
        arguments.upstream, tuple(arguments.draws), arguments.pairs, arguments.samples
    )
    found = account(run, options, device)
    folder = arguments.out.with_suffix("") if arguments.out else run / "figures"
    drawn = draw_accounting(found.comparison, found.profile, found.proposals, folder)
    said = [f"run {run} at update {found.step}", *accounting_report(found)]
    return Found([*said, *(f"drawn: {path}" for path in drawn)], accounting_dict(found))


VARIANCE = Command("variance", ("dmd", "sds"), "variance, compute and advice", _options, _measure)
