"""Results that are computed side by side, and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from joblib import Memory

from carv_distill.engine.console import quiet_libraries
from carv_distill.files import write_json
from studies.side_by_side import side_by_side

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
Call = partial[Any]
"""A function of a module with its arguments."""
Compute = Callable[[Any], Any]
""":func:`compute` with its folder and workers."""
quiet_once = cache(quiet_libraries)


def compute(calls: Any, folder: Path, workers: int) -> Any:
    """The results of all calls, `workers` at a time in processes of one thread each.

    They are kept by joblib's Memory, by function and arguments: a study that was interrupted goes on, and a
    function whose source has changed is called anew.

    Args:
        calls: in dictionaries and lists of any depth, longer ones better first; the results come back so.
        folder: where they are kept.
    """
    called = side_by_side([partial(_call, call, folder) for call in _flat(calls)], workers)
    return _like(calls, iter(called))


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
