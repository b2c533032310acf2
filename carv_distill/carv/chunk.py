"""How many re-noisings go through the frozen networks at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Chunk:
    """Rows per call of the frozen networks, halved for good where a device's memory does not hold them.

    One object serves a whole training: what did not fit once is not tried again.

    Args:
        rows: at least 1; None begins with all there are.

    Raises:
        ValueError: rows below 1.
    """

    def __init__(self, rows: int | None = None) -> None:
        if rows is not None and rows < 1:
            raise ValueError(f"chunk must be at least 1, found {rows}")
        self.rows = rows
        self.halves = True
        """False where processes call a network together: one with more calls would wait for the others."""

    def run(self, total: int, work: Callable[[slice], Result]) -> list[Result]:
        """`work` of consecutive slices of 0 … total − 1, in order. A slice that runs out of memory is done
        again in two halves; the result of a row does not depend on its slice.

        Raises:
            torch.OutOfMemoryError: a single row does not fit, or what does not is not to be halved.
        """
        results: list[Result] = []
        start = 0
        while start < total:
            size = min(self.rows or total, total - start)
            result = _unless_full(work, slice(start, start + size), self.halves and size > 1)
            if result is None:
                # Out here the failed call's tensors are no longer held by its exception.
                self.rows = -(-size // 2)
                torch.cuda.empty_cache()
                log.warning(
                    "out of memory with %d re-noisings per network call; going on with %d (estimator.chunk)",
                    size,
                    self.rows,
                )
                continue
            results.append(result[0])
            start += size
        return results


def _unless_full(work: Callable[[slice], Result], part: slice, again: bool) -> tuple[Result] | None:
    try:
        return (work(part),)
    except torch.OutOfMemoryError:
        if not again:
            raise
        return None
