"""How a study takes its options and writes its results.

A study is a module with

    def main(words: list[str] | None = None) -> int:
        return run_study("toy_importance", study_parser(__doc__), run, words)

where ``run(study, arguments)`` calls ``study.write(name, rows)`` and ``study.draw(name, figure)``. Under
the folder ``results/<study>`` this makes ``<name>.json``, ``<name>.csv`` and ``<name>.png``. JSON and CSV
say how they came about: command, seeds, machine, commit, seconds; no path, host or user is in them.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from carv_distill.cli import Parser, run_command, whole_number
from carv_distill.errors import UserError
from carv_distill.figures import save_figure
from carv_distill.files import write_json, write_text
from carv_distill.provenance import git_state
from carv_distill.variance import Estimate

Rows = Sequence[Mapping[str, Any]]


class Study:
    """One run of a study: where its results go and what they say about their origin.

    Args:
        name: of the study, also that of its module in ``studies``.
        out: folder that takes the study's own folder.
        words: its options on the command line.
        seeds: every seed that enters the numbers.
        quick: fewer replicates than the full study.

    Raises:
        UserError: the folder cannot be made or written.
    """

    def __init__(
        self, name: str, out: Path, words: Sequence[str], seeds: Sequence[int], quick: bool = False
    ) -> None:
        self.folder = out / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out: {self.folder} cannot be made ({error.strerror})") from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise UserError(f"--out: {self.folder} may not be written")
        self.quick = quick
        self._start = time.perf_counter()
        self._origin = {
            "study": name,
            "command": shlex.join(["python", "-m", f"studies.{name}", *_without_out(words)]),
            "quick": quick,
            "seeds": list(seeds),
            "machine": machine(),
            "git": _short(git_state()),
        }

    def use_seeds(self, seeds: Sequence[int]) -> None:
        """Names the seeds that enter the numbers, where they are not the one of --seed."""
        self._origin["seeds"] = list(seeds)

    @property
    def metadata(self) -> dict[str, Any]:
        """What every JSON and CSV begins with; `seconds` are those of this call; runs finished earlier do
        not count."""
        return {**self._origin, "seconds": round(time.perf_counter() - self._start, 1)}

    def write(self, name: str, rows: Rows, **content: Any) -> None:
        """Writes ``<name>.json`` (metadata, `content`, rows) and ``<name>.csv`` (metadata as ``# `` lines).

        Args:
            name: of the files, without ending.
            rows: numbers, strings, booleans or None under column names; a row may leave columns out.
            content: further entries of the JSON, e.g. ``verdict=[...]``.

        Raises:
            ValueError: a NaN or an infinity, which JSON cannot hold; nothing is written then.
        """
        metadata = self.metadata
        write_json(self.folder / f"{name}.json", {**metadata, **content, "rows": [dict(row) for row in rows]})
        write_text(self.folder / f"{name}.csv", _csv(metadata, rows))

    def draw(self, name: str, figure: Figure) -> None:
        """Writes ``<name>.png``."""
        save_figure(figure, self.folder / f"{name}.png")


def study_parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every study has; a study adds its own.

    Args:
        description: the study's docstring.
    """
    parser = Parser(description)
    parser.add_argument(
        "--quick", action="store_true", help="a small version, to try it: fewer replicates or updates"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="default: results, or results/quick with --quick"
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of every random number (0)")
    return parser


def run_study(
    name: str,
    parser: argparse.ArgumentParser,
    run: Callable[[Study, argparse.Namespace], None],
    words: Sequence[str] | None = None,
) -> int:
    """Runs a study from its command line; the exit status.

    A mistake of the user's, or a disk that does not take the results, is one line and status 2.
    """
    words = sys.argv[1:] if words is None else words
    arguments = parser.parse_args(words)
    out = arguments.out or Path("results/quick" if arguments.quick else "results")

    def work() -> None:
        study = Study(name, out, words, [arguments.seed], arguments.quick)
        run(study, arguments)
        print(f"written to {study.folder}")

    return run_command(work, "interrupted; a study that trains goes on where it was, by the same command")


def columns(name: str, estimate: Estimate) -> dict[str, float | None]:
    """Four columns of a row: value, standard error, and the ends of the 95 % interval."""
    e = estimate
    pairs = {name: e.value, f"{name}_se": e.se, f"{name}_low": e.low, f"{name}_high": e.high}
    return {key: value if math.isfinite(value) else None for key, value in pairs.items()}


def read_csv(path: Path) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Metadata and rows of a study's CSV, as strings; empty cells are left out."""
    lines = path.read_text().splitlines(keepends=True)
    head = (line[2:].rstrip("\n").split(": ", 1) for line in lines if line.startswith("# "))
    body = csv.DictReader(line for line in lines if not line.startswith("# "))
    return dict(head), [{k: v for k, v in row.items() if v} for row in body]


def machine() -> dict[str, Any]:
    """Processor, cores and versions; nothing that names the host or its user."""
    found: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "os": _operating_system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "carv-distill": version("carv-distill"),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _csv(metadata: Mapping[str, Any], rows: Rows) -> str:
    text = io.StringIO(newline="")
    for key, value in metadata.items():
        for name, part in value.items() if isinstance(value, dict) else [(None, value)]:
            text.write(f"# {key}{'.' + name if name else ''}: {part}\n")
    writer = csv.DictWriter(text, list(dict.fromkeys(k for row in rows for k in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _without_out(words: Sequence[str]) -> list[str]:
    """The options less --out: it changes no number, and its value may name a user or a machine."""
    kept: list[str] = []
    skip = False
    for word in words:
        if not skip and not word.startswith("--o"):
            kept.append(word)
        skip = not skip and word.startswith("--o") and "=" not in word
    return kept


def _short(git: dict[str, Any]) -> dict[str, Any]:
    return {**git, "commit": git["commit"][:12]} if git else {}


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _operating_system() -> str:
    words = [platform.system(), platform.machine()]
    try:
        words.append(platform.freedesktop_os_release()["PRETTY_NAME"])
    except OSError:
        words.append(platform.mac_ver()[0])
    return " ".join(word for word in words if word)
