"""Calls that run side by side, with a line after each."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TypeVar

from joblib import Parallel, delayed

from carv_distill.screen import duration

T = TypeVar("T")


def side_by_side(calls: Sequence[Callable[[], T]], workers: int, backend: str = "loky") -> list[T]:
    """The results of all calls, `workers` at a time; standard error says how many are done, and for how long
    the others will take by those that were not there already.

    joblib's own line (`verbose`) ends a study of one worker with an AttributeError.

    Args:
        backend: loky, processes; threading, for calls that wait for a process of their own.
    """
    results: list[T] = []
    seconds: list[float] = []
    parallel = Parallel(workers, backend=backend, return_as="generator")
    for result, took in parallel(delayed(_timed)(call) for call in calls):
        results.append(result)
        seconds.append(took)
        said = f"{len(results)} of {len(calls)} done" + _left(seconds, len(calls) - len(results), workers)
        print(said, file=sys.stderr, flush=True)
    return results


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    begin = time.monotonic()
    return call(), time.monotonic() - begin


def _left(seconds: Sequence[float], calls: int, workers: int) -> str:
    """How long the others take, where a call has been long enough to tell: a result that a study already had
    is read in a moment, and says nothing of those to come."""
    if not calls or max(seconds) < 1:
        return ""
    long = [s for s in seconds if s > max(seconds) / 20]
    return f", about {duration(fmean(long) * calls / min(workers, calls))} left"
