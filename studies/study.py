"""A study: its options, and what it writes.

Its `__main__` gives :func:`run_study` a function ``run(study, options)``, which imports what it needs,
computes, and calls ``study.write(name, rows)`` and ``study.draw(name, figure)``. What is slow to import is
imported in functions: help is shown, and a bad option refused, without it.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carv_distill import __version__
from carv_distill.command_line import Extend, Parser, run_command, whole_number
from carv_distill.errors import UserError
from carv_distill.files import write_json, write_text
from carv_distill.provenance import git_state

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from carv_distill.variance import Estimate

Row = dict[str, Any]
"""Numbers, strings, booleans or None under column names."""


def study_parser(
    description: str | None,
    *,
    parts: Sequence[str] = (),
    more: Sequence[str] = (),
    trains: bool = False,
    updates: int | None = None,
    seeds: int | None = None,
) -> argparse.ArgumentParser:
    """The options of a study; it may add its own.

    Args:
        description: the study's docstring.
        parts: of the study, each of which can run alone.
        more: parts that run when they are asked for alone.
        trains: runs and results are made side by side, and kept: --workers and --runs.
        updates, seeds: defaults of --updates and --seeds, without --quick.
    """
    parser = Parser(description)
    add = parser.add_argument
    add("--quick", action="store_true", help="a small version, to try it: fewer replicates or updates")
    add("--out", type=Path, metavar="FOLDER", help="default: results, or results/quick with --quick")
    add("--seed", type=whole_number(0), default=0, help="of every random number (0)")
    if parts:
        usual = f"default: {', '.join(parts)}" if more else "default: all"
        add("--part", choices=(*parts, *more), nargs="+", action=Extend, default=tuple(parts), help=usual)
    if trains:
        add("--workers", type=whole_number(1), default=2, help="side by side, one thread each (2)")
        add("--runs", type=Path, default=Path("runs/studies"), help="where runs and cached results are kept")
    if updates is not None:
        add("--updates", type=whole_number(30), default=updates, help=f"without --quick ({updates})")
    if seeds is not None:
        add("--seeds", type=whole_number(2), default=seeds, help=f"of trainings, without --quick ({seeds})")
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
    parser.prog = f"python -m studies.{name}"
    options = parser.parse_args(words)

    def work() -> None:
        study = Study(name, options, words)
        run(study, options)
        print(f"written to {study.folder}")

    return run_command(work, "interrupted; the same command goes on from what is trained and computed")


class Study:
    """One run of a study: where its results go and how they came about.

    Args:
        name: of the study, also that of its folder in ``studies``.
        options: as :func:`study_parser` has them.
        words: the options as they were typed.

    Raises:
        UserError: the folder of the results cannot be made or written.
    """

    def __init__(self, name: str, options: argparse.Namespace, words: Sequence[str]) -> None:
        self.name, self.quick = name, options.quick
        self.folder = (options.out or Path("results/quick" if self.quick else "results")) / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out: {self.folder} cannot be made ({error.strerror})") from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise UserError(f"--out: {self.folder} may not be written")
        self._start = time.perf_counter()
        seeds = getattr(options, "seeds", None)
        count = 1 if seeds is None else 2 if self.quick else seeds
        self.seeds = [options.seed + i for i in range(count)]
        """Every seed that enters the numbers; a part that takes others says so here."""
        self._made_by = {
            "study": name,
            "command": shlex.join(["python", "-m", f"studies.{name}", *_without_folders(words)]),
            "quick": self.quick,
        }
        self._runs: Path | None = options.runs if "runs" in options else None
        git = git_state()
        self._where = {"machine": machine(), "git": git and {**git, "commit": git["commit"][:12]}}

    @property
    def runs(self) -> Path:
        """Folder of the study's training runs and cached results."""
        assert self._runs is not None
        return self._runs / (f"{self.name}_quick" if self.quick else self.name)

    @property
    def metadata(self) -> Row:
        """What every JSON and CSV begins with; `seconds` are those of this call; runs finished earlier do
        not count. No path, host or user is in it."""
        seconds = round(time.perf_counter() - self._start, 1)
        return {**self._made_by, "seeds": self.seeds, **self._where, "seconds": seconds}

    def write(self, name: str, rows: Sequence[Row], **content: Any) -> None:
        """Writes ``<name>.json`` (metadata, `content`, rows) and ``<name>.csv`` (metadata as ``# `` lines).

        Args:
            name: of the files, without ending.
            rows: a row may leave columns out.
            content: further entries of the JSON, e.g. ``verdict=[...]``.

        Raises:
            ValueError: a NaN or an infinity, which JSON cannot hold; nothing is written then.
        """
        import pandas as pd

        metadata = self.metadata
        write_json(self.folder / f"{name}.json", {**metadata, **content, "rows": list(rows)})
        flat = pd.json_normalize(metadata).to_dict("records")[0]
        head = "".join(f"# {key}: {value}\n" for key, value in flat.items())
        # as objects: a whole number stays one where other rows leave the column out
        write_text(self.folder / f"{name}.csv", head + pd.DataFrame(rows, dtype=object).to_csv(index=False))

    def draw(self, name: str, figure: Figure) -> None:
        """Writes ``<name>.png``."""
        from carv_distill.figures import save_figure

        save_figure(figure, self.folder / f"{name}.png")


def filled(table: pd.DataFrame) -> list[Row]:
    """The rows of a table, each without its empty cells."""
    return [{k: v for k, v in row.items() if v == v and v is not None} for row in table.to_dict("records")]


def columns(name: str, estimate: Estimate) -> dict[str, float | None]:
    """Four columns of a row: value, standard error, and the ends of the 95 % interval."""
    e = estimate
    pairs = {name: e.value, f"{name}_se": e.se, f"{name}_low": e.low, f"{name}_high": e.high}
    return {key: value if math.isfinite(value) else None for key, value in pairs.items()}


def machine() -> Row:
    """Processor, cores and versions; nothing that names the host or its user."""
    import torch

    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": next(named, platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "os": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "carv-distill": __version__,
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
    }


def _without_folders(words: Sequence[str]) -> list[str]:
    """The options less --out and --runs: these change no number, and may name a user or a machine."""
    folders = ("--out", "--runs")
    words = [word for word in words if not word.startswith(tuple(f"{name}=" for name in folders))]
    left_out = {i + after for i, word in enumerate(words) if word in folders for after in (0, 1)}
    return [word for i, word in enumerate(words) if i not in left_out]
