"""Where the object of a clip is, and how it is turned, at each of its frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Pose(NamedTuple):
    """Of an object, at each time; all [F]."""

    x: Tensor
    """Of its centre, as a share of the picture's side, rightwards from the left border."""
    y: Tensor
    """Downwards from the top."""
    angle: Tensor
    """Radians, anticlockwise."""


class Course(NamedTuple):
    """What a motion may use; drawn alike for every motion, so that nothing but the motion tells it."""

    x: float
    """The middle of the way, as a share of the side."""
    y: float
    reach: float
    """The length of the way, as a share of the side."""
    angle: float
    """Halfway through a turn, radians."""
    turn: float
    """How far it turns, radians; below 0 clockwise."""
    hops: float
    """How often it bounces."""
    phase: float
    """Where in a hop it begins, in [0, 1)."""


def _straight(right: float, down: float) -> Callable[[Course, Tensor], Pose]:
    def pose(c: Course, time: Tensor) -> Pose:
        way = c.reach * (time - 0.5)
        return Pose(c.x + right * way, c.y + down * way, torch.full_like(time, c.angle))

    return pose


def _turn(c: Course, time: Tensor) -> Pose:
    angle = c.angle + c.turn * (time - 0.5)
    return Pose(torch.full_like(time, c.x), torch.full_like(time, c.y), angle)


def _bounce(c: Course, time: Tensor) -> Pose:
    """As a ball that loses nothing: parabolas from the floor, y = floor − 4 reach u (1 − u)."""
    u = (c.hops * time + c.phase) % 1
    y = c.y + c.reach * (0.5 - 4 * u * (1 - u))
    return Pose(torch.full_like(time, c.x), y, torch.full_like(time, c.angle))


MOTIONS: dict[str, Callable[[Course, Tensor], Pose]] = {
    "moves left": _straight(-1, 0),
    "moves right": _straight(1, 0),
    "moves up": _straight(0, -1),
    "moves down": _straight(0, 1),
    "turns": _turn,
    "bounces": _bounce,
    "stands still": _straight(0, 0),
}
"""By the words of captions: from a course and times [F] in 0 … 1 to poses. A row here is a motion; its place
is its number."""
REACH, TURN, HOPS = (0.2, 0.4), (math.radians(120), math.radians(330)), (1.25, 2.25)
MIDDLE = (0.25, 0.75)
"""Of the way: whatever the motion, the object's centre stays within 0.05 … 0.95 of the picture."""


def course(v: list[float], tilt: float, middle: tuple[float, float] = MIDDLE) -> Course:
    """From eight uniform numbers in [0, 1).

    Args:
        tilt: the greatest angle that an object is turned by to either side, radians.
        middle: where the middle of the way is, along either side.
    """
    turn = _between(TURN, v[4]) * (1 if v[5] < 0.5 else -1)
    return Course(
        _between(middle, v[0]),
        _between(middle, v[1]),
        _between(REACH, v[2]),
        _between((-tilt, tilt), v[3]),
        turn,
        _between(HOPS, v[6]),
        v[7],
    )


def _between(ends: tuple[float, float], v: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * v
