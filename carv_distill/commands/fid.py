"""python evaluate.py fid: sample quality over several ranges of seeds."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from carv_distill.cli import whole_number

from .command import Command, Found, add_run_option


def _options(parser: argparse.ArgumentParser) -> None:
    add_run_option(parser)
    parser.add_argument(
        "--images", type=whole_number(4), help="per seed range; default: what the run's config says"
    )
    parser.add_argument("--ranges", type=whole_number(1), default=3, help="seed ranges (3)")
    parser.add_argument("--features", choices=("digits", "inception", "clip"), help="default: the run's")
    parser.add_argument("--weights", help="classifier folder, Inception weights file, or CLIP folder")
    parser.add_argument("--reference", help=".npz with mu and sigma; default: the run's, or the data set")
    parser.add_argument("--labels", choices=("turn", "random"), help="of the seeds; random: as EDM has them")
    parser.add_argument("--no-teacher", action="store_true", help="leave the teacher's own samples out")


def _measure(arguments: argparse.Namespace, run: Path, device: str) -> Found | None:
    from carv_distill.distillation.evaluate import fid_reports
    from carv_distill.distillation.options import DMDConfig
    from carv_distill.engine.folder import run_config
    from carv_distill.evaluation.report import render_table

    given = {k: getattr(arguments, k) for k in ("images", "features", "weights", "reference", "labels")}
    given = {k: v for k, v in given.items() if v is not None}
    options = run_config(run, DMDConfig).fid
    if given.get("features", options.features) != options.features:
        options = replace(options, weights=None, reference=None)  # those were for other features
    reports = fid_reports(run, replace(options, **given), arguments.ranges, device, not arguments.no_teacher)
    if reports is None:
        return None
    return Found([f"run {run}", render_table(reports)], {r.name: r.to_dict() for r in reports})


FID = Command("fid", ("dmd",), "sample quality over several ranges of seeds", _options, _measure)
