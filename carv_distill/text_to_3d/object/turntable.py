"""An object from all sides: pictures, a video once around it, a sheet of views."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from carv_distill.data.clips.mp4 import film
from carv_distill.data.sets import to_uint8
from carv_distill.errors import UserError, one_line
from carv_distill.evaluation.grids import save_grid
from carv_distill.files import updated_folder
from carv_distill.geometry.camera import Cameras
from carv_distill.progress import progress
from carv_distill.text_to_3d.options import MEMORY, SHOWN, SceneOptions
from carv_distill.text_to_3d.rendering import (
    AT_ONCE,
    CELL_BYTES,
    OccupancyGrid,
    Rendered,
    background_colours,
    over,
)
from carv_distill.text_to_3d.scenes import GaussianScene, Scene

from .memory import SEARCH, most_cells, points_at_once, rows_at_once

VIEWS, ELEVATIONS = 8, (15.0, 60.0)
"""Of the sheet: so many around, from each of these, degrees."""
LARGEST_VIEW = 256
"""Pixels along one side of a view of the sheet, at most."""
SHARE = 8
"""Of a film's points, those that go into the search for empty space: at most one in so many."""
COARSEST, PLENTY = 16, 80
"""Cells along one side: the fewest that are worth while, and as many as save most of what can be saved."""


def turntable(count: int, elevation: float = 15.0, distance: float = 1.75, fov: float = 55.0) -> Cameras:
    """`count` cameras once around, starting from the front; degrees."""
    azimuth, ones = 2 * math.pi * torch.arange(count) / count, torch.ones(count)
    return Cameras(azimuth, math.radians(elevation) * ones, distance * ones, math.radians(fov) * ones)


@torch.no_grad()
def frames(
    scene: Scene,
    cameras: Cameras,
    size: int,
    samples: int,
    background: str,
    memory: float,
    occupied: OccupancyGrid | None = None,
) -> Iterator[Tensor]:
    """Pictures one after the other, each [3, S, S] in [0, 1] on the CPU; see :func:`renders`."""
    for seen in renders(scene, cameras, size, samples, background, memory, occupied):
        yield seen.image[0].cpu()


@torch.no_grad()
def renders(
    scene: Scene,
    cameras: Cameras,
    size: int,
    samples: int,
    background: str,
    memory: float,
    occupied: OccupancyGrid | None = None,
) -> Iterator[Rendered]:
    """One after the other, without jitter.

    Args:
        background: random and learned are shown as grey.
        memory: GiB that a picture may take: so many of its rows are rendered at once. Another number of rows
            gives the same picture to the rounding of float32.
        occupied: cells in which the scene is asked; None is everywhere.
    """
    like, rows = next(scene.parameters()), rows_at_once(scene, size, samples, memory)
    shade = background if background in SHOWN else "grey"
    for i in range(len(cameras)):
        camera = cameras[i : i + 1].to(like)
        with scene.held():  # not over a yield: what happens there is not known
            seen = scene.render(camera, size, samples, background=shade, rows=rows, occupied=occupied)
        yield seen


def occupied_cells(scene: Scene, samples: int, rays: int, memory: float) -> OccupancyGrid | None:
    """Of a finished scene, for pictures of so many rays with so many points on each.

    It is looked into on a lattice with the step of a ray's points along an axis, 2 extent / samples, or half
    that of its own grid where this is larger: a wall that no ray can step over, or of half a cell, is then
    found. None where that would take more than an eighth of the pictures' points or a quarter of `memory`
    GiB, as a coarser one could lose what they show; and where pictures ask no points.
    """
    if isinstance(scene, GaussianScene):
        return None
    side = 2 * scene.extent
    lattice = min(samples, math.ceil(2 * side / scene.finest)) if scene.finest else samples
    least = max(COARSEST, math.ceil(lattice / 2))
    most = min(most_cells(memory), int((rays * samples / SHARE) ** (1 / 3) / 2))
    if least > most:
        return None
    like, cells = next(scene.parameters()), min(most, max(least, PLENTY))
    at_once = min(AT_ONCE, points_at_once(scene, memory, CELL_BYTES * cells**3))
    return OccupancyGrid.of_finished(scene.density_at, scene.extent, cells, like, at_once)


def pictures(
    scene: Scene,
    cameras: Cameras,
    size: int,
    samples: int,
    background: str = "grey",
    memory: float = MEMORY,
) -> Tensor:
    """All of :func:`frames`, [n, 3, S, S]."""
    return torch.stack(list(frames(scene, cameras, size, samples, background, memory)))


def write_turntable(
    folder: Path,
    scene: Scene,
    view: SceneOptions,
    count: int = 60,
    size: int = 128,
    background: str | None = None,
    memory: float = MEMORY,
    fps: int = 20,
) -> None:
    """`turntable.mp4` once around the object in `count` frames, and `views.png`, a row of views from 15° and
    one from 60°, on white and on grey.

    A frame is with the encoder before the next is rendered. Empty space is looked for once and left out of
    all of them, which changes no pixel by more than half a level, but for walls so thin that a ray could step
    over them (:func:`occupied_cells`).

    Args:
        background: of film and views; None is that of the view for the film, and white and grey for these.

    Raises:
        UserError: the video could not be written; one that was there before is kept.
    """
    samples, shade = 2 * view.samples, background or view.background
    cells = occupied_cells(scene, samples, count * size**2, memory)
    left = memory if cells is None else (1 - SEARCH) * memory
    shown = frames(scene, turntable(count), size, samples, shade, left, cells)
    sheet = views(scene, min(size, LARGEST_VIEW), samples, background, left, cells)
    try:
        with updated_folder(folder) as scratch:
            video = scratch / "turntable.mp4"
            with film(video, size, size, fps) as write, progress("turntable", count) as advance:
                for frame in shown:
                    write(to_uint8(2 * frame - 1))
                    advance(1)
            save_grid(sheet, scratch / "views.png", columns=VIEWS)
    except OSError as error:
        raise UserError(f"{folder / 'turntable.mp4'} could not be written ({one_line(error)})") from error


def views(
    scene: Scene,
    size: int,
    samples: int,
    background: str | None = None,
    memory: float = MEMORY,
    occupied: OccupancyGrid | None = None,
) -> Tensor:
    """Views around from each elevation, bytes [n, 3, S, S]: all on white and then all on grey, or all on the
    background that is given."""
    seen = []
    with progress("views", VIEWS * len(ELEVATIONS)) as advance:
        for around in (turntable(VIEWS, elevation) for elevation in ELEVATIONS):
            for one in renders(scene, around, size, samples, "black", memory, occupied):
                seen.append(one)
                advance(1)
    shades = ("white", "grey") if background is None else (background,)
    behind = [background_colours(shade, 1, None, seen[0].image)[..., None, None] for shade in shades]
    shown = [over(s, colour).image for colour in behind for s in seen]
    return torch.cat([to_uint8(2 * image - 1).cpu() for image in shown])
