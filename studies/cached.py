"""Results that are computed side by side, and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from joblib import Memory

from carv_distill.digests import content_digest
from carv_distill.engine.console import quiet_libraries
from carv_distill.errors import UserError
from carv_distill.files import read_json, write_json
from studies.side_by_side import side_by_side

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
Call = partial[Any]
"""A function of a module with its arguments."""
Compute = Callable[[Any], Any]
""":func:`compute` with its folder and workers."""
quiet_once = cache(quiet_libraries)
STAMP = "made_of.json"
"""The file beside kept results that says what the runs and teachers were that they are of."""


def compute(calls: Any, folder: Path, workers: int, of: Sequence[Path] = ()) -> Any:
    """The results of all calls, `workers` at a time in processes of one thread each.

    They are kept by joblib's Memory, by function and arguments: a study that was interrupted goes on, and a
    function whose own source has changed is called anew. After a change in what it calls, remove the folder.

    Args:
        calls: in dictionaries and lists of any depth, longer ones better first; the results come back so.
        folder: where they are kept.
        of: runs and teachers that the results are of, besides those that are arguments of a call.

    Raises:
        UserError: results are kept of a run or teacher that has changed since.
    """
    require_same(folder, [*of, *(path for call in _flat(calls) for path in _named(call))])
    called = side_by_side([partial(_call, call, folder) for call in _flat(calls)], workers)
    return _like(calls, iter(called))


def require_same(folder: Path, made_of: Sequence[Path]) -> None:
    """That these runs and teachers are what they were when results of them were first kept, and notes what
    they are. A folder from before there were notes is taken to be of those that are there."""
    stamp = folder / STAMP
    noted: dict[str, str] = read_json(stamp) if stamp.is_file() else {}
    found = {str(path): _digest(path) for path in dict.fromkeys(made_of)}
    for name, now in found.items():
        if noted.get(name, now) != now:
            raise UserError(
                f"{name}: has changed since the results in {folder} were computed of it; put it back, or "
                f"remove {folder} to compute them anew"
            )
    if not found.keys() <= noted.keys():
        write_json(stamp, noted | found)


def _named(call: Call) -> Iterator[Path]:
    """Folders of runs and teachers among a call's arguments."""
    for argument in (*call.args, *call.keywords.values()):
        if isinstance(argument, str | Path):
            path = Path(argument)
            files = ("model_index.json", "config.json")
            if _is_run(path) or any((path / name).is_file() for name in files):
                yield path


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file() and (path / "checkpoints").is_dir()


def _digest(path: Path) -> str:
    """Of a teacher's files, or of a run's configuration and checkpoints: evaluations add to a run."""
    parts = ("config.yaml", "checkpoints") if _is_run(path) else ("",)
    return " ".join(content_digest(path / part) for part in parts)


def _call(call: Call, folder: Path) -> Any:
    torch.set_num_threads(1)
    quiet_once()
    return Memory(folder, verbose=0).cache(call.func)(*call.args, **call.keywords)


def _flat(calls: Any) -> Iterator[Call]:
    if isinstance(calls, partial):
        yield calls
    else:
        for part in calls.values() if isinstance(calls, dict) else calls:
            yield from _flat(part)


def _like(calls: Any, results: Iterator[Any]) -> Any:
    if isinstance(calls, partial):
        return next(results)
    if isinstance(calls, dict):
        return {name: _like(part, results) for name, part in calls.items()}
    return [_like(part, results) for part in calls]


def once(path: Path, kind: type[T], measure: Callable[[], T]) -> T:
    """What was measured once and stays in a JSON file, so that a study that goes on has the same prices.

    Args:
        kind: a dataclass.
    """
    if not path.is_file():
        write_json(path, asdict(measure()))
    return kind(**json.loads(path.read_text()))
