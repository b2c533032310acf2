"""environment.json: what a run was started with and by; its one writer and its one reader."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from carv_distill import __version__
from carv_distill.digests import content_digest
from carv_distill.errors import UserError
from carv_distill.files import read_json, write_json
from carv_distill.options import leaves
from carv_distill.provenance import git_state

from .options import RunConfig

LAYOUT = 2
"""Of a run's folder and its checkpoints; runs before 0.2.0 have another."""
NAME = "environment.json"
_PACKAGES = ("torch", "lightning", "diffusers", "torchmetrics", "torch-fidelity", "omegaconf")
_NEEDED = {"git": dict, "packages": dict, "threads": int, "shares": int}
"""What others read of it, in runs of this layout."""
_REMEDY = "put back the file as it was, or move it away to go on without it"


def write_environment(folder: Path, config: RunConfig, device: str, processes: int, shares: int) -> None:
    """Versions, git state, command, and what a resumed run must have in common with this one; the commands
    before it, of a run that was resumed, stay."""
    import torch  # whoever only reads a folder does without

    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    content = {
        "layout": LAYOUT,
        "command": command,
        "commands": [*commands_of(read_environment(folder)), command],
        "git": git_state(),
        "python": platform.python_version(),
        "packages": {"carv-distill": __version__, **{name: version(name) for name in _PACKAGES}},
        "device": device,
        "threads": torch.get_num_threads(),
        "world_size": processes,
        "shares": shares,
        "contents": contents(config),
    }
    write_json(folder / NAME, content)


def commands_of(environment: Mapping[str, Any]) -> list[list[str]]:
    """That a run was started and resumed by, in order; none of a run without its environment.json."""
    commands = environment.get("commands", [environment.get("command")])
    known = commands if isinstance(commands, list) else []
    return [[str(word) for word in command] for command in known if isinstance(command, list) and command]


def read_environment(folder: Path) -> dict[str, Any]:
    """A run's environment.json; of one that is gone, what this version would write without the details.

    Raises:
        UserError: it cannot be read, or something that others need is not in it.
    """
    path = folder / NAME
    if not path.exists():
        return {"layout": LAYOUT, "git": {}, "packages": {}}
    try:
        content = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; {_REMEDY}") from error
    needed = _NEEDED if content.get("layout") == LAYOUT else {}
    for key, kind in needed.items():
        if not isinstance(content.get(key), kind):
            raise UserError(f"{path}: {key} is {content.get(key)!r}, not as it was written; {_REMEDY}")
    return content


def contents(config: RunConfig) -> dict[str, str]:
    """Digests of what a run depends on wherever it lies: by key, of the files and folders that are here."""
    return {
        key: content_digest(Path(value))
        for key, spec, value, _ in leaves(config)
        if spec.metadata.get("content") and value is not None and Path(value).exists()
    }


def changed_contents(folder: Path, config: RunConfig) -> list[str]:
    """Keys of what is here and no longer what the run was started with, as a teacher trained anew."""
    before, now = read_environment(folder).get("contents", {}), contents(config)
    return [key for key in now if key in before and now[key] != before[key]]


def require_layout(folder: Path, key: str) -> None:
    """UserError for a run whose checkpoints are of an earlier version."""
    environment = read_environment(folder)
    if environment.get("layout") != LAYOUT:
        packages = environment.get("packages")
        by = packages.get("carv-distill") if isinstance(packages, dict) else None
        raise UserError(
            f"{key}: the checkpoints of {folder} were written by carv-distill {by or 'an earlier version'}, "
            f"this is {__version__}, which has another layout; go on with that version, or start a new run"
        )


def check_shares(folder: Path, shares: int) -> None:
    """UserError unless a resumed run cuts its batch into as many shares as it was started with."""
    before = read_environment(folder).get("shares", shares)
    if before != shares:
        raise UserError(
            f"--resume: {folder} was started with {before} shares of a batch (processes × accumulated ones), "
            f"now {shares}; with dmd.global_batch other numbers of processes make the same shares"
        )
