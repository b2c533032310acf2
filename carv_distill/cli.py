"""The console command: carv-distill train | evaluate | view | push | convert."""

from __future__ import annotations

import sys

from carv_distill.command_line import Parser


def main() -> int:
    """Hands the words after the first one to their command; the exit status."""
    parser = Parser("Trains and measures with frozen diffusion teachers.\n\ncarv-distill train --help")
    parser.add_argument("command", choices=("train", "evaluate", "view", "push", "convert"))
    command = parser.parse_args(sys.argv[1:2]).command
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
