"""How like a known solid an object is: its outlines, whatever its pose."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from carv_distill.geometry.camera import Cameras
from carv_distill.geometry.solids import SIDED, SOLIDS, Solid, meet
from carv_distill.text_to_3d.scene_files import load_scene
from carv_distill.text_to_3d.scenes import Scene

ELEVATIONS = (15.0, 60.0)
"""Degrees; from the upper row a torus has its hole and a cone its circle."""
AZIMUTHS, DISTANCE, FOV, SIZE, SAMPLES = 8, 1.75, 55.0, 64, 128
COARSE = 4
"""Views of the search for a pose, over which is looked again with all of them."""
TURNS = {**dict.fromkeys(SOLIDS, 1), "cube": 4, "octahedron": 4, **dict.fromkeys(SIDED, 16)}
"""Poses about the vertical that are tried: of four-sided solids over a quarter turn."""
PERIOD = {"cube": math.pi / 2, "octahedron": math.pi / 2}


@dataclass(frozen=True)
class Pose:
    """Where a solid stands: turned about the vertical, then scaled, then lifted."""

    turn: float = 0.0
    """Radians."""
    scale: float = 1.0
    height: float = 0.0


@dataclass(frozen=True)
class Likeness:
    """What was found."""

    iou: float
    """Mean over views of |A ∩ B| / |A ∪ B| of the outlines, in [0, 1]."""
    by_row: tuple[float, ...]
    """The same by elevation."""
    pose: Pose
    """Of the solid, that of the greatest mean."""


def standard_views() -> Cameras:
    """AZIMUTHS around, at each of ELEVATIONS."""
    around = torch.arange(AZIMUTHS) / AZIMUTHS * 2 * math.pi
    rows = [torch.full((AZIMUTHS,), math.radians(e)) for e in ELEVATIONS]
    n = AZIMUTHS * len(rows)
    place = torch.full((n,), DISTANCE), torch.full((n,), math.radians(FOV))
    return Cameras(around.repeat(len(rows)), torch.cat(rows), *place)


@torch.no_grad()
def outlines_of(scene: Scene, cameras: Cameras, size: int = SIZE) -> Tensor:
    """Where a scene hides more than half of what is behind it, bool [n, size, size]: haze does not count."""
    rendered = [scene.render(cameras[i : i + 1], size, SAMPLES) for i in range(len(cameras))]
    return torch.cat([r.opacity for r in rendered])[:, 0] > 0.5


def outlines(solid: Solid, pose: Pose, cameras: Cameras, size: int = SIZE) -> Tensor:
    """Of a posed solid, bool [n, size, size]."""
    hit = meet(solid, _as_seen_by_it(cameras, pose), size)
    mask = torch.zeros(len(cameras) * size * size, dtype=torch.bool)
    mask[hit.rays] = True
    return mask.view(-1, size, size)


def likeness(shown: Tensor, name: str, cameras: Cameras) -> Likeness:
    """The pose of a solid in which it is most like the outlines, and how like it is then.

    Args:
        shown: bool [n, size, size], of :func:`standard_views`.
        name: of the solid.
    """
    solid, size = {**SOLIDS, **SIDED}[name], shown.shape[-1]
    every = range(0, len(cameras), max(len(cameras) // COARSE, 1))
    few = torch.cat([shown[i : i + 1] for i in every]), _some(cameras, every)
    span = PERIOD.get(name, 2 * math.pi)
    turns = [span * i / TURNS[name] for i in range(TURNS[name])]
    scales, heights = [0.5, 0.7, 0.9, 1.1, 1.3], [-0.15, 0.0, 0.15]
    poses = itertools.starmap(Pose, itertools.product(turns, scales, heights))
    best = _best(poses, solid, *few, size)
    steps = {"scale": 0.1, "height": 0.08}
    known: dict[Pose, float] = {}
    if len(turns) > 1:
        steps["turn"] = span / len(turns) / 2
    for halved in range(5):
        for key, step in steps.items():
            moved = (
                replace(best, **{key: getattr(best, key) + sign * step / 2**halved}) for sign in (-1, 0, 1)
            )
            best = _best(moved, solid, shown, cameras, size, known)
    found = _overlap(shown, outlines(solid, best, cameras, size))
    rows = found.view(len(ELEVATIONS), -1).mean(1).tolist()
    return Likeness(float(found.mean()), tuple(rows), best)


def likeness_of_run(run: Path, name: str) -> Likeness:
    """Of a finished run's object to a solid."""
    scene, _, _ = load_scene(run / "object")
    views = standard_views()
    return likeness(outlines_of(scene, views), name, views)


def _best(
    poses: Iterable[Pose],
    solid: Solid,
    shown: Tensor,
    cameras: Cameras,
    size: int,
    known: dict[Pose, float] | None = None,
) -> Pose:
    """Of the greatest mean; `known` are those looked at before."""
    known = {} if known is None else known
    for pose in poses:
        if pose not in known:
            known[pose] = float(_overlap(shown, outlines(solid, pose, cameras, size)).mean())
    return max(known, key=known.__getitem__)


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each view, [n]; 0 where both are empty."""
    both, either = ((a & b).flatten(1).sum(1), (a | b).flatten(1).sum(1))
    return both / either.clamp(min=1)


def _as_seen_by_it(cameras: Cameras, pose: Pose) -> Cameras:
    """The cameras in the coordinates of the solid before it was turned, scaled and lifted."""
    down = torch.zeros(len(cameras), 3)
    down[:, 1] = -pose.height / pose.scale
    near = cameras.distance / pose.scale
    return replace(cameras, azimuth=cameras.azimuth - pose.turn, distance=near, offset=down, centre=down)


def _some(cameras: Cameras, places: Sequence[int]) -> Cameras:
    given = cameras.azimuth, cameras.elevation, cameras.distance, cameras.fov
    return Cameras(*(t[list(places)] for t in given))
