"""Whose picture of a field is painted next, and how fine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from .cameras import BrowserCamera
from .pictures import FieldPainter, Picture

QUICK = 0.08
"""Seconds that a picture may take while the camera moves."""
REST = 0.25
"""Seconds after which a camera that has not moved rests."""


@dataclass
class Spectator:
    """Someone who looks through a camera."""

    camera: BrowserCamera
    greatest: int
    """Rows of the finest picture."""
    send: Callable[[Picture], None]
    painted: int = 0
    """Rows of the last picture by this camera; 0: none yet."""
    moved: float = field(default_factory=time.monotonic)

    @property
    def unfinished(self) -> bool:
        """Whether a finer picture is to come."""
        return self.painted < self.greatest

    @property
    def until_rest(self) -> float:
        """Seconds."""
        return max(0.0, self.moved + REST - time.monotonic())


class Spectators:
    """Paints for all of them, on one thread: where a camera moves at once and coarsely, where it rests again
    and again, each time twice as fine."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._all: dict[int, Spectator] = {}
        self._painter: FieldPainter | None = None
        self._closed = False
        self._pool = ThreadPoolExecutor(1, "paint")
        self._work: Future[None] = self._pool.submit(self._paint)

    def show(self, painter: FieldPainter | None) -> None:
        """What is painted from now on; None: nothing."""
        with self._changed:
            self._painter = painter
            for spectator in self._all.values():
                spectator.painted = 0
            self._changed.notify()

    def moved(self, number: int, spectator: Spectator) -> None:
        """One of them is new, or looks through another camera."""
        with self._changed:
            self._all[number] = spectator
            self._changed.notify()

    def left(self, number: int) -> None:
        """One of them is gone."""
        with self._changed:
            self._all.pop(number, None)

    def check(self) -> None:
        """Raises what has ended the painting."""
        if self._work.done():
            self._work.result()

    def close(self) -> None:
        """Ends it."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._pool.shutdown()

    def _paint(self) -> None:
        while (job := self._next()) is not None:
            spectator, painter, rows = job
            coarse = spectator.painted == 0

            def given_up(job: tuple[Spectator, FieldPainter, int] = job, coarse: bool = coarse) -> bool:
                # a coarse one is finished in any case: whoever never rests would not see any
                return self._closed or not (coarse or self._is_current(job[0], job[1]))

            picture = painter.paint(spectator.camera, rows, given_up)
            if picture is None:
                continue
            if self._is_current(spectator, painter):
                spectator.painted = rows
            elif not coarse or self._painter is None:
                continue
            spectator.send(picture)

    def _next(self) -> tuple[Spectator, FieldPainter, int] | None:
        """Waits for the next picture: for whom, by what, of how many rows; None at the end."""
        with self._changed:
            while not self._closed:
                unfinished = sorted((s for s in self._all.values() if s.unfinished), key=lambda s: s.painted)
                if (painter := self._painter) is None or not unfinished:
                    self._changed.wait()
                    continue
                for spectator in unfinished:
                    if spectator.painted == 0:
                        aspect, greatest = spectator.camera.aspect, spectator.greatest
                        return spectator, painter, painter.height_within(QUICK, aspect, greatest)
                    if spectator.until_rest == 0:
                        return spectator, painter, min(2 * spectator.painted, spectator.greatest)
                self._changed.wait(min(s.until_rest for s in unfinished))
            return None

    def _is_current(self, spectator: Spectator, painter: FieldPainter) -> bool:
        """Whether someone is still there, through the same camera, and still is to see this field."""
        with self._changed:
            return self._painter is painter and any(s is spectator for s in self._all.values())
