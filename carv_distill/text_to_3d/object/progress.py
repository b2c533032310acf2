"""How far an export is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds between two lines, where there is no bar."""


@contextmanager
def progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Something to call with the number of parts that are done more: a bar on a terminal, elsewhere a line
    now and then, of which what is soon over has none."""
    console, done, said = Console(stderr=True), 0, time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total)

        def advance(count: int) -> None:
            nonlocal done, said
            done += count
            bar.advance(task, count)
            if not console.is_terminal and time.monotonic() - said > PATIENCE:
                log.info("%s: %d of %d", name, done, total)
                said = time.monotonic()

        yield advance
