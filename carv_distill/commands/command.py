"""What all commands of evaluate.py have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carv_distill.cli import Parser

NEWEST = "default: the newest under --runs"


@dataclass(frozen=True)
class Command:
    """A command: nothing slow is imported before `measure` is called."""

    name: str
    tasks: tuple[str, ...]
    """Of the runs that it measures."""
    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[argparse.Namespace, Any, str], Found | None]
    """(arguments, folder of the run, device) → what to show and keep; None on a process that has nothing to
    say. There is no folder where a teacher is given instead of a run."""
    interrupted: str = "interrupted; nothing was written"
    """What to say after Ctrl-C."""


@dataclass(frozen=True)
class Found:
    """What a command found."""

    shown: list[Any]
    """For the screen."""
    result: dict[str, Any]
    """For the JSON."""


def common_options() -> Parser:
    """The options that every command has."""
    common = Parser(add_help=False)
    common.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs are (runs)"
    )
    common.add_argument("--out", type=Path, metavar="FILE.json", help="default: <command>.json in the run")
    common.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    return common


def add_run_option(parser: argparse.ArgumentParser) -> None:
    """--run, for a command on one run."""
    parser.add_argument("--run", type=Path, metavar="FOLDER", help=NEWEST)
