"""Calls that run side by side, with a line after each."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from joblib import Parallel, delayed

from carv_distill.screen import duration

T = TypeVar("T")


def side_by_side(calls: Sequence[Callable[[], T]], workers: int, backend: str = "loky") -> list[T]:
    """The results of all calls, `workers` at a time; standard error says how many are done, and for how long
    the others will take if they are as long.

    joblib's own line (`verbose`) ends a study of one worker with an AttributeError.

    Args:
        backend: loky, processes; threading, for calls that wait for a process of their own.
    """
    begin, results = time.monotonic(), []
    parallel = Parallel(workers, backend=backend, return_as="generator")
    for result in parallel(delayed(call)() for call in calls):
        results.append(result)
        done, every = len(results), len(calls)
        left = (time.monotonic() - begin) / done * (every - done)
        print(f"{done} of {every} done, about {duration(left)} left", file=sys.stderr, flush=True)
    return results
