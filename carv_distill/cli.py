"""The console command: carv-distill train | evaluate | view | push | convert."""

from __future__ import annotations

import sys

from carv_distill.command_line import Parser

COMMANDS = ("train", "evaluate", "view", "push", "convert")
HELP = """Trains and measures with frozen diffusion teachers.

carv-distill train --config dmd_carv       a student, an object or a teacher, as a configuration describes it
carv-distill evaluate fid                  FID, CLIP score, variance, influence, a page: of the newest run
carv-distill view --run runs/sds_carv      an object in the browser, while it learns and afterwards
carv-distill push --run RUN --to user/name what a run made to the Hugging Face hub
carv-distill convert network.pkl folder    an EDM network as a folder that diffusers reads

Each has a --help of its own. `python -m carv_distill` is the same."""


def main() -> int:
    """Hands the words after the first one to their command; the exit status."""
    parser = Parser(HELP, prog="carv-distill")
    parser.add_argument("command", metavar=" | ".join(COMMANDS))
    if len(sys.argv) < 2:
        parser.error(f"which command? {', '.join(COMMANDS)}; carv-distill --help says what each does")
    command = parser.parse_args(sys.argv[1:2]).command
    parser.refuse_unknown(command, COMMANDS)
    if command == "train":
        from carv_distill.commands.train import main as run
    elif command == "evaluate":
        from carv_distill.commands.evaluate import main as run
    elif command == "view":
        from carv_distill.commands.view import main as run
    elif command == "push":
        from carv_distill.commands.push import main as run
    else:
        from carv_distill.teachers.convert import main as run
    return run(sys.argv[2:])
