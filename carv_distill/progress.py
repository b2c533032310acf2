"""How far a piece of work is."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from carv_distill.screen import duration

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds between two lines, where there is no bar."""


class Count:
    """Of the parts of a piece of work, those that are done; called with the number of new ones."""

    def __init__(self, name: str, total: int, bar: Progress, lines: bool) -> None:
        self.name, self.total, self.done = name, total, 0
        self._bar, self._lines = bar, lines
        self._task = bar.add_task(name, total=total)
        self._begun = self._said = time.monotonic()

    def __call__(self, count: int) -> None:
        self.done = min(self.done + count, self.total)
        self._bar.update(self._task, completed=self.done)
        now = time.monotonic()
        if self._lines and self.done and now - self._said > PATIENCE:
            left = duration((now - self._begun) * (self.total - self.done) / self.done)
            log.info("%s: %d of %d · %s left", self.name, self.done, self.total, left)
            self._said = now

    def say(self, name: str) -> None:
        """Another name, as with a figure that matters."""
        self.name = name
        self._bar.update(self._task, description=name)


@contextmanager
def progress(name: str, total: int, shown: bool = True) -> Iterator[Count]:
    """Something to call with the number of parts that are done more: a bar on a terminal or in a notebook,
    elsewhere a line now and then, of which what is soon over has none. Where it is not `shown`, as by all
    processes but the first, it is silent."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    moving = moves(console)
    with Progress(*columns, console=console, disable=not (shown and moving)) as bar:
        yield Count(name, total, bar, lines=shown and not moving)


def moves(console: Console) -> bool:
    """Whether a bar can move there: on a terminal and in a notebook; a file has lines instead."""
    return console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal)
