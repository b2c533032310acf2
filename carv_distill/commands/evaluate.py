"""evaluate.py: measures a run."""

from __future__ import annotations

import sys
from dataclasses import fields

from carv_distill.command_line import Parser, add_options, options_of, run_command, spin_briefly, started_as
from carv_distill.options import nearest

from .clip import CLIP
from .command import Command, measure
from .export import EXPORT
from .fid import FID
from .influence import INFLUENCE
from .reference import REFERENCE
from .report import REPORT, renew_page
from .retrained import LDS, REMOVE
from .variance import VARIANCE

COMMANDS = {
    command.name: command
    for command in (FID, REFERENCE, CLIP, VARIANCE, INFLUENCE, LDS, REMOVE, EXPORT, REPORT)
}
HELP = """Measures a run: the newest one, unless --run names another.

python evaluate.py                                    FID, KID, precision, recall, copies: of the student
python evaluate.py fid --run runs/dmd_carv --out fid.json
python evaluate.py fid --features inception --weights inception.pth --reference cifar10.npz --images 50000
python evaluate.py reference --data cifar10 --path data --out cifar10-32x32.npz    statistics for --reference
python evaluate.py reference --data fashion_mnist --features classifier --weights FOLDER --out FILE.npz
python evaluate.py reference --data captioned --path photos --size 512 --out photos-512x512.npz
torchrun --nproc-per-node 8 -- evaluate.py fid …      the same numbers, made by eight GPUs
python evaluate.py clip --run runs/dmd_shapes         CLIP score of pictures with prompts, or of an object's
                                                      views, of one run or of several
python evaluate.py variance --run runs/dmd_carv       where the gradient's variance comes from, what each fix
                                                      buys per second, which (R, K) to use; three figures
python evaluate.py influence --run runs/dmd_carv      which training samples shaped given ones, and how many
                                                      draws that takes to know; two figures
python evaluate.py lds --influence influence.json --models models.jsonl    what its scores are worth, by
                                                      models trained anew; remove likewise
python evaluate.py export --run runs/dmd_carv         makes the student, object or teacher anew
python evaluate.py export --run runs/sds_carv --size 512 --mesh 192 --faces 80000    an object, larger
python evaluate.py report --run runs/a runs/b --out runs/both.html    runs side by side, as a page to open
"""


def main(words: list[str] | None = None) -> int:
    """Reads the words of a command line and measures; the exit status."""
    words = sys.argv[1:] if words is None else words
    parser = Parser(HELP, prog=started_as("evaluate"))
    commands = parser.add_subparsers(dest="command", required=True, metavar=" | ".join(COMMANDS))
    for command in COMMANDS.values():
        add_options(commands.add_parser(command.name, help=command.help), command.options)
    plain = words[:1] in ([], ["-h"], ["--help"]) or not words[0].startswith("-")
    words = words if words and plain else ["fid", *words]
    if not words[0].startswith("-"):
        parser.refuse_unknown(words[0], COMMANDS)
    if (typed := COMMANDS.get(words[0])) and (unknown := _unknown(words, typed)):
        parser.error(unknown)
    arguments = parser.parse_args(words)
    command = COMMANDS[arguments.command]
    spin_briefly()
    return run_command(
        lambda: measure(command, options_of(command.options, arguments), renew_page), command.interrupted
    )


def _unknown(words: list[str], command: Command) -> str:
    """That a command does not take an option that was typed, and which ones do."""
    for word in words:
        flag = word.split("=")[0]
        if not flag.startswith("--") or flag in {"--", "--help", *_flags(command)}:
            continue
        able = [c.name for c in COMMANDS.values() if flag in _flags(c)]
        of = f"; of {' and '.join(able)}" if able else f"; evaluate.py {command.name} --help has all"
        like = "" if able else nearest(flag, sorted(_flags(command)))
        return f"{word}: no option of evaluate.py {command.name}{like}{of}"
    return ""


def _flags(command: Command) -> set[str]:
    flags = set()
    for spec in fields(command.options):
        name = spec.name.replace("_", "-")
        flags |= {f"--{name}", f"--no-{name}"} if spec.default is True else {f"--{name}"}
    return flags
