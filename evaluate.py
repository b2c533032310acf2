"""Measures a run: the newest one, unless --run names another.

python evaluate.py                                    FID, KID, precision and recall of the student
python evaluate.py fid --run runs/dmd_carv --out fid.json
python evaluate.py fid --features inception --weights inception.pth --reference cifar10.npz --images 50000
python evaluate.py reference --data cifar10 --path data --out cifar10-32x32.npz    statistics for --reference
torchrun --nproc-per-node 8 -- evaluate.py fid …      the same numbers, made by eight GPUs
python evaluate.py clip --run runs/sds_carv           CLIP score of an object's views, or of several runs
python evaluate.py variance --run runs/dmd_carv       where the gradient's variance comes from, what each fix
                                                      buys per second, which (R, K) to use; three figures
python evaluate.py influence --run runs/dmd_carv      which training samples shaped given ones, and how many
                                                      draws that takes to know; two figures
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from carv_distill.cli import Parser, run_command
from carv_distill.commands.clip import CLIP
from carv_distill.commands.command import common_options
from carv_distill.commands.fid import FID
from carv_distill.commands.influence import INFLUENCE
from carv_distill.commands.reference import REFERENCE
from carv_distill.commands.variance import VARIANCE

COMMANDS = {command.name: command for command in (FID, REFERENCE, CLIP, VARIANCE, INFLUENCE)}


def parse(words: list[str]) -> argparse.Namespace:
    parser = Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar=" | ".join(COMMANDS))
    for command in COMMANDS.values():
        command.add_options(commands.add_parser(command.name, parents=[common_options()], help=command.help))
    plain = words[:1] in ([], ["-h"], ["--help"]) or not words[0].startswith("-")
    return parser.parse_args(words if words and plain else ["fid", *words])


def main() -> int:
    arguments = parse(sys.argv[1:])
    return run_command(lambda: measure(arguments), COMMANDS[arguments.command].interrupted)


def measure(arguments: argparse.Namespace) -> None:
    """Measures what is asked for: tables on the screen, JSON in the run's folder, figures."""
    import torch
    from rich.console import Console

    from carv_distill.engine.console import quiet_libraries
    from carv_distill.engine.folder import newest_run, origin_of, read_run_config
    from carv_distill.errors import UserError
    from carv_distill.files import write_json

    command = COMMANDS[arguments.command]
    asked = getattr(arguments, "run", None)
    runs: list[Path | None] = asked if isinstance(asked, list) else [asked]
    if command.tasks and getattr(arguments, "teacher", None) is None:
        runs[0] = runs[0] or newest_run(arguments.runs, command.tasks)
    for folder in filter(None, runs):
        read_run_config(folder)  # says so where it is not a run's folder
    run = runs[0]
    if (run is None or len(runs) > 1) and arguments.out is None:
        what = "several runs need a file of their own" if run else "without a run results need a place"
        raise UserError(f"--out: {what}, as --out scores.json")
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: cuda, but there is no CUDA device here (allowed: cpu)")
    out: Path = arguments.out or (run or Path()) / f"{arguments.command}.json"
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise UserError(f"--out: {out.parent} does not exist or cannot be written")
    quiet_libraries()
    found = command.measure(arguments, run, device)
    if found is None:
        return
    Console().print(*found.shown, sep="\n")
    origin = {"run": str(run), "trained": origin_of(run)} if run else {}
    out = out.with_suffix(".json") if out.suffix == ".npz" else out  # the command has written that one
    write_json(out, {"command": sys.argv, **found.result, **origin})
    print(f"written to {out}")


if __name__ == "__main__":
    sys.exit(main())
