"""Ways of objects, exactly."""

from __future__ import annotations

import math

import pytest
import torch

from carv_distill.carv import stream
from carv_distill.data.clips.trajectories import HOPS, MIDDLE, MOTIONS, REACH, TURN, Course, course

TIME = torch.linspace(0, 1, 17, dtype=torch.float64)
COURSE = Course(x=0.5, y=0.4, reach=0.3, angle=0.2, turn=-2.0, hops=2.0, phase=0.25)


@pytest.mark.parametrize(
    ("motion", "start", "end"),
    [
        ("moves left", (0.65, 0.4), (0.35, 0.4)),
        ("moves right", (0.35, 0.4), (0.65, 0.4)),
        ("moves up", (0.5, 0.55), (0.5, 0.25)),
        ("moves down", (0.5, 0.25), (0.5, 0.55)),
        ("stands still", (0.5, 0.4), (0.5, 0.4)),
    ],
)
def test_straight_ways_are_even(motion: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    x, y, angle = MOTIONS[motion](COURSE, TIME)
    for way, first, last in ((x, start[0], end[0]), (y, start[1], end[1])):
        torch.testing.assert_close(way, first + (last - first) * TIME)
    assert (angle == 0.2).all()


def test_a_turn_is_about_its_middle() -> None:
    x, y, angle = MOTIONS["turns"](COURSE, TIME)
    torch.testing.assert_close(angle, 0.2 - 2 * (TIME - 0.5))
    assert (x == 0.5).all()
    assert (y == 0.4).all()


def test_a_bounce_is_of_parabolas_from_the_floor() -> None:
    """Phase 1/4 and two hops: on the floor at 3/8 and 7/8, on top at 1/8 and 5/8, on the way at 0."""
    x, y, angle = MOTIONS["bounces"](COURSE, TIME)
    assert (x == 0.5).all()
    assert (angle == 0.2).all()
    floor, top = 0.4 + 0.15, 0.4 - 0.15
    assert y[[6, 14]].tolist() == pytest.approx([floor] * 2)
    assert y[[2, 10]].tolist() == pytest.approx([top] * 2)
    assert float(y[0]) == pytest.approx(floor - 0.3 * 0.75)
    bends = y[7:14].diff().diff()  # between two floors: one constant of gravity
    assert bends.tolist() == pytest.approx([8 * 0.3 * (2 / 16) ** 2] * 5)


def test_courses_stay_in_the_picture_and_in_their_ranges() -> None:
    numbers = torch.rand(400, 8, generator=stream("courses"), dtype=torch.float64).tolist()
    courses = [course(v, math.pi) for v in [*numbers, [0.0] * 8, [1 - 2**-53] * 8]]
    for c in courses:
        assert MIDDLE[0] <= min(c.x, c.y) <= max(c.x, c.y) <= MIDDLE[1]
        assert REACH[0] <= c.reach <= REACH[1]
        assert HOPS[0] <= c.hops <= HOPS[1]
        assert TURN[0] <= abs(c.turn) <= TURN[1]
        assert abs(c.angle) <= math.pi
        for pose in MOTIONS.values():
            x, y, _ = pose(c, TIME)
            assert min(x.min(), y.min()) >= 0.05
            assert max(x.max(), y.max()) <= 0.95
    assert {c.turn > 0 for c in courses} == {True, False}
    assert course([0.5] * 8, tilt=0.0).angle == 0
