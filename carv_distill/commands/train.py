"""train.py: trains what a configuration describes."""

from __future__ import annotations

import argparse
import logging
import re
import sys
import time
from pathlib import Path

from carv_distill.command_line import Parser, run_command, spin_briefly, started_as
from carv_distill.engine.config import find_config
from carv_distill.engine.console import is_main_process, quiet_libraries, show_messages
from carv_distill.engine.folder import SUMMARY
from carv_distill.engine.options import ImageConfig, RunConfig
from carv_distill.engine.task import Task
from carv_distill.files import read_json
from carv_distill.options import nearest
from carv_distill.report import NAME
from carv_distill.screen import printable
from carv_distill.tasks import TASKS, load_config, run_to_resume, train

from .next_steps import next_steps

log = logging.getLogger(__name__)

FIGURES = {
    "fid/precision": ("precision", "{:.2f}"),
    "fid/recall": ("recall", "{:.2f}"),
    "fid/copied": ("copied", "{:.2f} (chance: 0.05)"),
    "clip/score": ("CLIP score", "{:.1f}"),
    "variance/carv/total": ("variance", "{:.3g}"),
    "variance/iid/total": ("with one iid draw a sample", "{:.3g}"),
}
"""Metrics that a finished run shows beside its FID, with their names and formats."""
OPTIONS = ("--config", "--resume", "--requeue", "--env", "--help", "--")
NEXT = 3
"""Commands that it names, at most."""
HELP = """Trains what a configuration describes.

python train.py --config configs/dmd_carv.yaml
python train.py --config configs/dmd_carv.yaml estimator.draws=16 name=dmd_k16
python train.py --config configs/dmd_carv.yaml --resume
torchrun --nproc-per-node 8 train.py --config configs/dmd_carv.yaml
srun python train.py --config configs/cifar10/dmd_carv.yaml --requeue
carv-distill train --config dmd_carv              the same with a configuration that ships, from any folder
"""


def main(words: list[str] | None = None) -> int:
    """Reads the words of a command line and trains; the exit status."""
    parser = Parser(HELP, prog=started_as("train"))
    parser.add_argument(
        "--config", required=True, metavar="YAML", help="a file, or the name of a shipped one"
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--resume", action="store_true", help="go on with the newest run of that name and these values"
    )
    again.add_argument(
        "--requeue", action="store_true", help="the same where there is one, else start: for schedulers"
    )
    parser.add_argument(
        "--env", action="store_true", help="replace ${oc.env:NAME} by the environment variable NAME"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any field, as estimator.draws=16")
    typed = sys.argv[1:] if words is None else words
    for word in typed:
        if re.fullmatch(r"--\w+(\.\w+)+=.*", word, re.DOTALL):
            parser.error(f"{word}: values are given without dashes, as {word.lstrip('-')}")
        if word.startswith("--") and word.split("=")[0] not in OPTIONS:
            like = nearest(word.split("=")[0], OPTIONS)
            parser.error(f"{word}: no option of training{like}; values are words, as estimator.draws=16")
    if not any(word.startswith(("--config", "--help", "-h")) for word in typed):
        named = next((word for word in typed if word.endswith((".yaml", ".yml"))), "configs/dmd_carv.yaml")
        parser.error(f"a configuration is missing; name one, as --config {named}")
    arguments = parser.parse_intermixed_args(words)
    return run_command(lambda: _train(arguments))


def _train(arguments: argparse.Namespace) -> None:
    config = load_config(
        arguments.config,
        arguments.overrides,
        complete=True,
        begins=not arguments.resume,
        environment=arguments.env,
    )
    show_messages()
    if arguments.resume:  # what is wrong with it is said before torch and Lightning are loaded
        config.name = run_to_resume(config, find_config(arguments.config)).name
    log.info("%s: loading torch, diffusers and Lightning …", config.name)
    spin_briefly()

    import carv_distill.engine.run  # noqa: F401, so that Lightning is there to be quietened
    from carv_distill.report.write import keep_report

    quiet_libraries()
    start = time.monotonic()
    folder = train(config, arguments.resume, arguments.requeue)
    if is_main_process():
        task = TASKS[config.task]
        keep_report(folder, next_steps(task, config, folder), task.words)
        show(printable(closing(task, config, folder, time.monotonic() - start)))


def show(text: str) -> None:
    """The text on standard output, between two lines where that is a terminal."""
    from rich.box import HORIZONTALS  # its commands can be copied
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    console = Console()
    if console.is_terminal:
        console.print(Panel(Text(text, overflow="fold"), box=HORIZONTALS, border_style="green"))
    else:
        print(text)


def closing(task: Task, config: RunConfig, folder: Path, seconds: float) -> str:
    """What a run ends with: its figures with their intervals, where things lie, what to do next."""
    from carv_distill.screen import duration

    last = read_json(folder / SUMMARY)["last"]
    figures = [figure(last, name, *form) for name, form in FIGURES.items() if last.get(name) is not None]
    if isinstance(config, ImageConfig) and last.get("fid/fid") is not None:
        figures.insert(0, config.fid.shown.format(last["fid/fid"]))
    lines = [" · ".join([f"done in {duration(seconds)}: {folder}", *figures])]
    lines.append(f"{task.product}: {folder / task.product}")
    if (folder / NAME).is_file():
        lines.append(f"report: {folder / NAME}")
    drawn = [*sorted((folder / "figures").glob("*.png")), *sorted((folder / "samples").glob("*.png"))[-1:]]
    if drawn:
        lines.append(f"drawn: {', '.join(map(str, drawn))}")
    lines += [f"next: {step}" for step in [*next_steps(task, config, folder).values()][:NEXT]]
    return "\n".join(lines)


def figure(last: dict[str, float], name: str, label: str, form: str) -> str:
    """One of the last metrics, with its interval where that was measured: CLIP score 91.1 [90.6, 91.6]."""
    ends = last.get(f"{name}_low"), last.get(f"{name}_high")
    interval = "" if None in ends else f" [{', '.join(form.format(end) for end in ends)}]"
    return f"{label} {form.format(last[name])}{interval}"
