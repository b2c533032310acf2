"""carv-distill push: what a run made, on the Hugging Face hub."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from carv_distill.command_line import Parser, add_options, options_of, run_command
from carv_distill.engine.console import show_messages
from carv_distill.engine.folder import CONFIG, newest_run, open_run, product_of, product_step
from carv_distill.engine.lock import owned
from carv_distill.engine.task import Task
from carv_distill.errors import UserError
from carv_distill.model_card import CARD
from carv_distill.options import option
from carv_distill.screen import printable
from carv_distill.tasks import TASKS

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from carv_distill.hub.card import Repository
    from carv_distill.hub.contents import Contents

log = logging.getLogger(__name__)

HELP = """Sends what a run made to the Hugging Face hub, in one commit: student, object or teacher.

carv-distill push --run runs/dmd_carv --to user/name --dry-run    what would be sent; needs no network
carv-distill push --run runs/dmd_carv --to user/name --license apache-2.0
carv-distill train --config dmd_carv teacher.path=user/name       and how a teacher or student is taken again
"""
INTERRUPTED = "interrupted; nothing was committed"


@dataclass(frozen=True)
class PushOptions:
    """What `carv-distill push` is told."""

    to: str = option(metavar="USER/NAME")
    """the repository; it is made where there is none"""
    run: Path | None = option(None, metavar="FOLDER")
    """default: the newest under --runs"""
    runs: Path = option(Path("runs"), metavar="FOLDER")
    """where runs are"""
    license: str | None = option(None, metavar="NAME")
    """of the weights, as the hub names it, as apache-2.0; the teacher's or the data's may bind it"""
    revision: str | None = option(None, metavar="BRANCH")
    """default: main; it is made where there is none"""
    message: str | None = option(None, metavar="TEXT")
    """of the commit"""
    private: bool = False
    """a new repository is seen by you alone"""
    replace: bool = False
    """files that the repository holds and that are not sent are taken away in the same commit"""
    dry_run: bool = False
    """say what would be sent, and send nothing"""


def main(words: list[str] | None = None) -> int:
    """Reads the words of a command line and sends; the exit status."""
    parser = Parser(HELP, prog="carv-distill push")
    add_options(parser, PushOptions)
    arguments = parser.parse_args(words)
    return run_command(lambda: push(options_of(PushOptions, arguments)), INTERRUPTED)


def push(options: PushOptions) -> None:
    """Sends a run's product, or says what would be sent.

    Raises:
        UserError: no such repository or run, no whole product, or what the hub refuses.
    """
    show_messages()
    to = _repository(options)
    run = options.run or newest_run(options.runs, list(TASKS.values()), "dmd_carv.yaml")
    task = _task(run)
    if not (run / task.product).is_dir():
        raise UserError(
            f"{run} has no {task.product} yet: it has not reached its first checkpoint; "
            f"python train.py --config {run / CONFIG} --resume goes on with it"
        )
    product = product_of(run, task.product)
    if options.dry_run:
        contents, card = _prepared(options, to, run, product)
        print(*_shown(options, to, product, contents, card), sep="\n", flush=True)
        return
    from huggingface_hub import HfApi

    from carv_distill.hub.send import kept, present, require_token, send

    api = HfApi(token=require_token())
    with owned(run):  # a training would exchange files between two of them
        contents, card = _prepared(options, to, run, product)
        before = present(api, to)
        if before is not None and options.private and not before.private:
            raise UserError(
                f"--private: {to.name} is there and public; make it private in its settings, or name another"
            )
        stays = kept(before, to, frozenset(contents.files), options.replace)
        if before is not None:
            beside = f"; what stays beside it: {', '.join(sorted(stays))}" if stays else ""
            log.info("%s holds %d files; this is a commit on top of them%s", to, len(before.files), beside)
        message = options.message or f"{task.product} of the run {run.resolve().name}"
        flags = options.private, options.replace
        address = send(api, to, before, contents.files, str(card), message, *flags)
    print(f"sent: {len(contents.files) + 1} files of {product}, {address}")
    if to.branch is not None:
        print(
            f"to take it again, fetch the branch into a folder: hf download {to.name} --revision {to.branch}"
        )
    elif task.product != "object":
        print(f"taken again by teacher.path={to.name}")


def _repository(options: PushOptions) -> Repository:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    from carv_distill.hub.card import Repository

    wrong = f"--to: {options.to!r} is not user/name: letters, digits, -, _ and . on both sides, 96 in all"
    if "/" not in options.to:
        raise UserError(wrong)
    try:
        validate_repo_id(options.to)
    except HFValidationError as error:
        raise UserError(wrong) from error
    return Repository(options.to, options.revision)


def _task(run: Path) -> Task:
    """Of the run; UserError for a folder that is none."""
    if (run / "influence.json").is_file() and not (run / CONFIG).is_file():
        raise UserError(
            f"{run} holds a ranking of training samples, which is no model; students, objects and "
            "teachers of runs are sent"
        )
    return open_run(TASKS, run)[0]


def _prepared(options: PushOptions, to: Repository, run: Path, product: Path) -> tuple[Contents, ModelCard]:
    """What is sent, and its card."""
    from carv_distill.hub.card import hub_card
    from carv_distill.hub.contents import contents_of
    from carv_distill.hub.results import results_of
    from carv_distill.report.files import RunFiles

    files, step = RunFiles.read(run), product_step(run)
    grids = [grid for at, grid in files.samples().items() if step is None or at <= step]
    contents = contents_of(product, grids[-1] if grids else None)
    if contents.left_out:
        log.info(
            "not sent, as it is no weights, text, picture, film or mesh: %s", ", ".join(contents.left_out)
        )
    card = hub_card(files, product, step, to, contents.files, results_of(files, step), options.license)
    if card.data.get("license") is None:
        log.info("the card says no licence; --license gives one")
    return contents, card


def _shown(
    options: PushOptions, to: Repository, product: Path, contents: Contents, card: ModelCard
) -> list[str]:
    """What would be sent: repository, files with their sizes, card."""
    seen = "private if it is new" if options.private else "public if it is new"
    text = str(card)
    sizes = {**contents.sizes, CARD: len(text.encode())}
    total = f"{len(sizes)} files, {_size(sum(sizes.values()))}"
    return [
        f"would be sent: {product} to {to} ({seen})\n",
        *_table(sizes),
        f"\n{total}; nothing was sent (--dry-run)",
        f"\n{CARD}:\n\n{printable(text)}",
    ]


def _table(sizes: Mapping[str, int]) -> list[str]:
    width = max(map(len, sizes))
    return [f"{printable(name):{width}}  {_size(size):>8}" for name, size in sorted(sizes.items())]


def _size(count: int) -> str:
    """Bytes as the hub writes them, in powers of ten."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} B"
