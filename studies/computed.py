"""Pieces of a study that are computed side by side, and kept."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from carv_distill.engine.console import quiet_libraries
from carv_distill.files import write_json

Piece = partial[dict[str, Any]]
"""A function of a module with its arguments; its result is what JSON can hold."""


def computed(pieces: Mapping[str, Piece], folder: Path, workers: int) -> dict[str, dict[str, Any]]:
    """The result of every piece by its name, from `<folder>/<name>.json` where that was made with the same
    arguments; the others are computed, `workers` at a time with one thread each, and kept.

    Args:
        pieces: by name; a slash makes a sub-folder.
    """
    found, missing = {}, {}
    for name, piece in pieces.items():
        kept = _kept(folder / f"{name}.json", piece)
        if kept is None:
            missing[name] = piece
        else:
            found[name] = kept
    if not missing:
        return found
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    spawn = multiprocessing.get_context("spawn")
    with (
        Progress(*columns) as bar,
        ProcessPoolExecutor(workers, spawn, _start) as pool,
    ):
        task = bar.add_task("pieces", total=len(missing))
        running = {pool.submit(piece): name for name, piece in missing.items()}
        for future in as_completed(running):
            name = running[future]
            found[name] = future.result()
            write_json(
                folder / f"{name}.json", {"arguments": _arguments(missing[name]), "found": found[name]}
            )
            bar.update(task, advance=1, description=f"done: {name}")
            if not bar.console.is_terminal:
                print(f"done: {name}", flush=True)
    return {name: found[name] for name in pieces}


def _start() -> None:
    """Of a worker."""
    torch.set_num_threads(1)
    quiet_libraries()


def _kept(path: Path, piece: Piece) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    found: dict[str, Any] = content["found"]
    return found if content["arguments"] == _arguments(piece) else None


def _arguments(piece: Piece) -> list[Any]:
    content = [piece.func.__qualname__, list(piece.args), piece.keywords]
    plain: list[Any] = json.loads(json.dumps(content))
    return plain
