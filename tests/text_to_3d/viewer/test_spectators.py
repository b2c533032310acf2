"""Who is painted for, and how fine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from carv_distill.text_to_3d.viewer.cameras import BrowserCamera
from carv_distill.text_to_3d.viewer.pictures import Picture
from carv_distill.text_to_3d.viewer.spectators import REST, Spectator, Spectators

CAMERA = BrowserCamera.of((1, 0, 0, 0), (0, 0, -2), 1.0, 1.0)


class Painter:
    """Paints nothing, as long as it is told to; remembers what it was asked."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.asked = seconds, []  # type: float, list[tuple[int, bool]]

    def height_within(self, seconds: float, aspect: float, greatest: int) -> int:
        return min(40, greatest)

    def paint(self, camera: BrowserCamera, height: int, given_up: Callable[[], bool]) -> Picture | None:
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            if given_up():
                self.asked.append((height, False))
                return None
            time.sleep(0.005)
        self.asked.append((height, True))
        return Picture(np.zeros((height, height, 3), np.uint8), np.zeros((height, height), np.float32))


@pytest.fixture
def spectators() -> Iterator[Spectators]:
    made = Spectators()
    yield made
    made.close()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def looks(sent: list[int], greatest: int = 200) -> Spectator:
    return Spectator(CAMERA, greatest, lambda picture: sent.append(len(picture.pixels)))


def show(spectators: Spectators, painter: Any) -> None:
    spectators.show(painter)


def test_at_once_coarsely_then_finer_and_finer(spectators: Spectators) -> None:
    sent: list[int] = []
    show(spectators, Painter())
    start = time.monotonic()
    spectators.moved(0, looks(sent))
    until(lambda: sent == [40])
    until(lambda: sent == [40, 80, 160, 200])
    assert time.monotonic() - start >= REST
    time.sleep(0.05)
    assert sent == [40, 80, 160, 200]
    show(spectators, Painter())  # a newer state of the run: all is painted again
    until(lambda: sent == 2 * [40, 80, 160, 200])


def test_a_camera_that_moves_gives_up_what_is_fine_and_sees_what_is_coarse(spectators: Spectators) -> None:
    sent: list[int] = []
    painter = Painter(0.02)
    show(spectators, painter)
    for _ in range(10):  # moves faster than it is painted
        spectators.moved(0, looks(sent))
        time.sleep(0.015)
    assert len(sent) >= 3
    assert set(sent) == {40}
    until(lambda: sent[-3:] == [80, 160, 200])


def test_a_fine_picture_is_given_up_when_the_camera_moves(spectators: Spectators) -> None:
    sent: list[int] = []
    painter = Painter()
    show(spectators, painter)
    spectators.moved(0, looks(sent))
    until(lambda: sent == [40])
    painter.seconds = 5.0
    time.sleep(REST + 0.1)  # the next one, of 80 rows, has begun
    painter.seconds = 0.0
    spectators.moved(0, looks(sent))
    until(lambda: (80, False) in painter.asked)
    until(lambda: sent == [40, 40, 80, 160, 200])


def test_everyone_has_a_coarse_picture_before_anyone_has_a_finer_one(spectators: Spectators) -> None:
    order: list[tuple[int, int]] = []
    for number in (0, 1):
        spectators.moved(
            number,
            Spectator(CAMERA, 80, lambda picture, n=number: order.append((n, len(picture.pixels)))),  # type: ignore[misc]
        )
    show(spectators, Painter())
    until(lambda: len(order) == 4)
    assert [rows for _, rows in order] == [40, 40, 80, 80]


def test_nothing_is_painted_where_nothing_is_shown_and_for_no_one(spectators: Spectators) -> None:
    sent: list[int] = []
    spectators.moved(0, looks(sent))
    spectators.show(None)
    time.sleep(0.05)
    assert sent == []
    spectators.left(0)
    painter = Painter()
    show(spectators, painter)
    time.sleep(0.05)
    assert painter.asked == []


def test_what_ends_the_painting_is_raised_where_it_is_asked() -> None:
    class Broken(Painter):
        def paint(self, *_: Any) -> Picture | None:
            raise MemoryError("no memory")

    spectators = Spectators()
    spectators.check()
    show(spectators, Broken())
    spectators.moved(0, looks([]))
    until(spectators._work.done)
    with pytest.raises(MemoryError, match="no memory"):
        spectators.check()
    spectators.close()
