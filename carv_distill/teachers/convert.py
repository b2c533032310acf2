"""Converts a published EDM teacher from its pickle to a folder of JSON and safetensors.

    python -m carv_distill.teachers.convert edm-cifar10-32x32-cond-vp.pkl teachers/edm-cifar10-cond

Nothing in the pickle is run. The folder is what teacher.path takes.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from carv_distill.command_line import Parser, run_command
from carv_distill.errors import UserError

from .edm.published import PublishedTeacher, published_teacher
from .edm.unpickle import read_pickle
from .teacher import edm_scheduler_config, save_teacher


def convert(source: Path, folder: Path) -> PublishedTeacher:
    """Writes the teacher in a pickle as `config.json`, safetensors, `scheduler_config.json` and README.md.

    Nothing is written where the file holds no such teacher.

    Raises:
        UserError: the folder is there and not empty, or the file is missing.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; name a folder that does not exist yet, or an empty one")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder that does not exist yet, or an empty one")
    if not source.is_file():
        raise UserError(f"{source} is not a file; it must be one of EDM's network pickles, edm-….pkl")
    print(f"reading {source} ({source.stat().st_size / 1e6:.0f} MB)", flush=True)
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    teacher = published_teacher(read_pickle(source), str(source))
    print(f"writing {folder}", flush=True)
    config = edm_scheduler_config(teacher.schedule, teacher.sigma_data)
    save_teacher(folder, teacher.network, config, _card(teacher, source.name, digest))
    return teacher


def _card(teacher: PublishedTeacher, name: str, digest: str) -> str:
    config, schedule = teacher.network.config, teacher.schedule
    return f"""\
# EDM teacher

Converted by carv-distill from `{name}`, sha256 `{digest}`.
The weights' licence is that of their publisher.

| | |
|---|---|
| network | `{type(teacher.network).__name__}` of `carv_distill.teachers.edm` |
| parameters | {_parameters(teacher):,} |
| images | {config.in_channels} × {config.img_resolution} × {config.img_resolution} |
| labels | {_labels(teacher)} |
| noise levels | σ from {schedule.sigma_min:g} to {schedule.sigma_max:g}, ρ = {schedule.rho:g} |
| σ_data | {teacher.sigma_data:g} |

`teacher.path=<this folder>` distils it.
"""


def _parameters(teacher: PublishedTeacher) -> int:
    return sum(p.numel() for p in teacher.network.parameters())


def _labels(teacher: PublishedTeacher) -> str:
    config = teacher.network.config
    if not config.label_dim:
        return "none"
    return f"{config.label_dim} classes" + (" and none" if config.label_dropout else "")


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = Parser(__doc__, prog="python -m carv_distill.teachers.convert")
    parser.add_argument("pickle", type=Path, metavar="EDM.pkl", help="one of EDM's network pickles")
    parser.add_argument("folder", type=Path, metavar="OUT", help="a folder; new, or an empty one")
    options = parser.parse_args(words)

    def work() -> None:
        teacher = convert(options.pickle, options.folder)
        kind, millions = type(teacher.network).__name__, _parameters(teacher) / 1e6
        print(f"{options.folder}: {kind}, {millions:.1f} M parameters, labels: {_labels(teacher)}")

    return run_command(work, "interrupted; nothing was written")


if __name__ == "__main__":
    sys.exit(main())
