"""Measures a run: the newest one, unless --run names another.

python evaluate.py                                    FID, KID, precision and recall of the student
python evaluate.py fid --run runs/dmd_carv --out fid.json
python evaluate.py fid --features inception --weights inception.pth --reference cifar10.npz --images 50000
python evaluate.py clip --run runs/sds_carv           CLIP score of an object's views, or of several runs
python evaluate.py variance --run runs/dmd_carv       where the gradient's variance comes from, what each fix
                                                      buys per second, which (R, K) to use; three figures
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from carv_distill.commands import Parser, run_command, whole_number

TASKS = {"fid": ("dmd",), "clip": ("sds",), "variance": ("dmd", "sds")}
"""What each command measures runs of."""


def parse(words: list[str]) -> argparse.Namespace:
    parser = Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="fid | clip | variance")
    common, newest = Parser(add_help=False), "default: the newest under --runs"
    common.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER")
    common.add_argument("--out", type=Path, metavar="FILE.json", help="default: fid.json, … in the run")
    common.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    fid = commands.add_parser("fid", parents=[common], help="sample quality over several ranges of seeds")
    fid.add_argument(
        "--images", type=whole_number(4), help="per seed range; default: what the run's config says"
    )
    fid.add_argument("--ranges", type=whole_number(1), default=3, help="seed ranges (3)")
    fid.add_argument("--features", choices=("digits", "inception"), help="default: the run's")
    fid.add_argument("--weights", help="classifier folder, or Inception weights file; default: the run's")
    fid.add_argument("--reference", help=".npz with mu and sigma; default: the run's, or the data set")
    fid.add_argument("--no-teacher", action="store_true", help="leave the teacher's own samples out")
    clip = commands.add_parser("clip", parents=[common], help="CLIP score of objects, for prompts × seeds")
    clip.add_argument("--run", type=Path, nargs="+", default=[None], metavar="FOLDER", help=newest)
    clip.add_argument("--views", type=whole_number(2), default=12, help="cameras once around (12)")
    clip.add_argument("--model", help="CLIP folder or hub id; default: the run's")
    variance = commands.add_parser("variance", parents=[common], help="variance, compute and advice")
    variance.add_argument("--upstream", type=whole_number(1), default=8, help="R of every sampler (8)")
    variance.add_argument(
        "--draws", type=whole_number(1), nargs="+", default=[1, 2, 4, 8, 16], help="K (1 2 4 8 16)"
    )
    variance.add_argument("--pairs", type=whole_number(3), default=16, help="pairs of gradients per row (16)")
    variance.add_argument(
        "--samples", type=whole_number(3), default=32, help="upstream samples of the budget (32)"
    )
    for command in (fid, variance):
        command.add_argument("--run", type=Path, metavar="FOLDER", help=newest)
    plain = words[:1] in ([], ["-h"], ["--help"]) or not words[0].startswith("-")
    return parser.parse_args(words if words and plain else ["fid", *words])


def main() -> int:
    arguments = parse(sys.argv[1:])
    return run_command(lambda: measure(arguments), "interrupted; nothing was written")


def measure(arguments: argparse.Namespace) -> None:
    """Measures what is asked for: tables on the screen, JSON in the run's folder, figures for variance."""
    import torch
    from rich.console import Console

    from carv_distill.errors import UserError
    from carv_distill.files import write_json
    from carv_distill.training.console import quiet_libraries
    from carv_distill.training.folder import newest_run, origin_of, read_run_config

    runs = arguments.run if arguments.command == "clip" else [arguments.run]
    run = runs[0] or newest_run(arguments.runs, TASKS[arguments.command])
    for folder in (run, *runs[1:]):
        read_run_config(folder)  # says so where it is not a run's folder
    if len(runs) > 1 and arguments.out is None:
        raise UserError("--out: several runs need a file of their own, as --out scores.json")
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: cuda, but there is no CUDA device here (allowed: cpu)")
    command = {"fid": measure_fid, "clip": measure_clips, "variance": measure_variance}[arguments.command]
    out = arguments.out or run / f"{arguments.command}.json"
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise UserError(f"--out: {out.parent} is no folder that can be written")
    quiet_libraries()
    shown, result = command(arguments, run, device)
    Console().print(*shown, sep="\n")
    write_json(out, {"run": str(run), "command": sys.argv, **result, "trained": origin_of(run)})
    print(f"written to {out}")


def measure_fid(arguments: argparse.Namespace, run: Path, device: str) -> tuple[list[Any], dict[str, Any]]:
    """What to show and what to keep of `evaluate.py fid`."""
    from carv_distill.evaluation.report import render_table
    from carv_distill.training.folder import run_config
    from carv_distill.training.measure import fid_reports
    from carv_distill.training.schemas import DMDConfig

    given = {k: getattr(arguments, k) for k in ("images", "features", "weights", "reference")}
    given = {k: v for k, v in given.items() if v is not None}
    options = run_config(run, DMDConfig).fid
    if given.get("features", options.features) != options.features:
        options = replace(options, weights=None, reference=None)  # those were for other features
    reports = fid_reports(run, replace(options, **given), arguments.ranges, device, not arguments.no_teacher)
    return [f"run {run}", render_table(reports)], {r.name: r.to_dict() for r in reports}


def measure_clips(arguments: argparse.Namespace, run: Path, device: str) -> tuple[list[Any], dict[str, Any]]:
    """What to show and what to keep of `evaluate.py clip`; draws the scores over training."""
    from carv_distill.training.clip_report import clip_table, measure_clip, object_views
    from carv_distill.training.figures import draw_clip, draw_views

    runs = [r or run for r in arguments.run]
    results = [measure_clip(r, arguments.model, arguments.views, device) for r in runs]
    figure = arguments.out.with_suffix(".png") if arguments.out else run / "figures" / "clip.png"
    drawn = draw_clip(runs, figure)
    sheet = figure.with_stem(f"{figure.stem}_views")
    draw_views([object_views(r, device) for r in runs], [r.prompt for r in results], sheet)
    said = [clip_table(results), *([f"drawn: {figure}"] if drawn else []), f"drawn: {sheet}"]
    return said, {"runs": [r.to_dict() for r in results]}


def measure_variance(
    arguments: argparse.Namespace, run: Path, device: str
) -> tuple[list[Any], dict[str, Any]]:
    """What to show and what to keep of `evaluate.py variance`; draws its figures."""
    from carv_distill.accounting import draw_accounting
    from carv_distill.training.accounting import AccountingOptions, account
    from carv_distill.training.accounting_report import accounting_dict, accounting_report

    options = AccountingOptions(
        arguments.upstream, tuple(arguments.draws), arguments.pairs, arguments.samples
    )
    found = account(run, options, device)
    folder = arguments.out.with_suffix("") if arguments.out else run / "figures"
    drawn = draw_accounting(found.comparison, found.profile, found.proposals, folder)
    said = [f"run {run} at update {found.step}", *accounting_report(found)]
    return [*said, *(f"drawn: {path}" for path in drawn)], accounting_dict(found)


if __name__ == "__main__":
    sys.exit(main())
