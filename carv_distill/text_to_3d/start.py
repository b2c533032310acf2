"""What Gaussians begin as: those of a file, points, or samples of a coarse field."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.errors import UserError

from .object.memory import points_at_once
from .object.ply import read_ply
from .object.splat_files import NEEDED, PAINT, PLACE, colour_logits, columns, read_gaussians
from .options import MEMORY, GaussianOptions
from .scene_files import load_scene
from .scenes import GaussianScene, Scene
from .scenes.gaussians import OPACITY

log = logging.getLogger(__name__)

KEY = "scene.gaussians.start"
GRID = 96
"""Cells along one side of the grid that a field is sampled on."""
NEIGHBOURS, ALONE = 3, 0.1
"""Over which a Gaussian's distance to its neighbours is averaged; and what it is without any."""


def start_from(scene: GaussianScene, place: str, options: GaussianOptions) -> None:
    """Puts other Gaussians in the place of a scene's.

    Args:
        place: a .ply of Gaussians or points, or a folder with a scene: the Gaussians that it has, or
            `options.count` samples of a voxel or hash grid.

    Raises:
        UserError: it cannot be read, holds nothing in the scene's cube, or more than density control allows.
    """
    path = Path(place)
    try:
        values = _from_field(path, options.count) if path.is_dir() else _from_file(path)
    except UserError as error:
        raise UserError(f"{KEY}: {error}") from error
    count, most = len(values["means"]), options.densify.most
    if not count:
        raise UserError(f"{KEY}: {place} has no vertices")
    inside = int((values["means"].abs() <= scene.extent).all(1).sum())
    if not inside:
        raise UserError(
            f"{KEY}: none of the {count} points of {place} is in the cube from −{scene.extent:g} to "
            f"{scene.extent:g} that cameras look at; scale and move them, or give a greater scene.extent"
        )
    if inside < count:
        log.warning("%s: %d of %d points lie outside of the scene's cube", KEY, count - inside, count)
    if options.densify.every and count > most:
        raise UserError(
            f"{KEY}: {place} has {count} Gaussians, above scene.gaussians.densify.most, {most}; give at "
            "least as many there"
        )
    scene.replace({name: values[name].to(like).contiguous() for name, like in scene.values.items()})
    log.info("%d Gaussians begin as in %s", count, place)


def _from_file(path: Path) -> dict[str, Tensor]:
    table = read_ply(path)
    names = table.dtype.names or ()
    if any(name in names for name in NEEDED if name not in PLACE):
        return read_gaussians(path, table)
    return _from_cloud(path, table)


def _from_cloud(path: Path, table: NDArray[np.void]) -> dict[str, Tensor]:
    """Points with x, y, z and, if there are, red, green, blue: bytes, or numbers from 0 to 1."""
    names = table.dtype.names or ()
    if missing := [name for name in PLACE if name not in names]:
        raise UserError(
            f"{path} has no property {missing[0]} of its vertices; points have x, y, z and, if at all, red, "
            f"green, blue; Gaussians have {', '.join(NEEDED)}"
        )
    painted = [name for name in PAINT if name in names]
    if painted and len(painted) < len(PAINT):
        lacks = next(name for name in PAINT if name not in painted)
        raise UserError(f"{path} has {painted[0]} and no {lacks}; colours are red, green and blue, or none")
    means = columns(path, table, PLACE)
    colour = torch.full_like(means, 0.5)
    if painted:
        kind = table.dtype[PAINT[0]]
        full = np.iinfo(kind).max if np.issubdtype(kind, np.integer) else 1
        colour = columns(path, table, PAINT) / full
        if bool(((colour < 0) | (colour > 1)).any()):
            raise UserError(f"{path}: red, green and blue are to be bytes, or numbers from 0 to 1")
    return _around(means, colour)


def _from_field(folder: Path, count: int) -> dict[str, Tensor]:
    """`count` points, in a cell of side h and density σ with the probability ∝ 1 − exp(−σ h) that it stops a
    ray, evenly within it."""
    if not (folder / "scene.json").is_file() and (folder / "object/scene.json").is_file():
        folder = folder / "object"
    field, _, _ = load_scene(folder)
    if isinstance(field, GaussianScene):
        return field.values
    side = 2 * field.extent / GRID
    axis = (torch.arange(GRID) + 0.5) * side - field.extent
    cells = torch.cartesian_prod(axis, axis, axis)
    weight = -torch.expm1(-_seen(field, cells)[0] * side)
    if not float(weight.sum()) > 0:
        raise UserError(f"{folder} holds a scene that is empty")
    g = stream("start", count)
    # in order, one in each of `count` equal parts of the sum: as many here as there is probability
    part = (torch.arange(count) + torch.rand(count, generator=g)) / count
    total = weight.double().cumsum(0)
    chosen = torch.searchsorted(total / total[-1], part.double()).clamp(max=len(cells) - 1)
    means = cells[chosen] + side * (torch.rand(count, 3, generator=g) - 0.5)
    return _around(means, _seen(field, means)[1])


@torch.no_grad()
def _seen(field: Scene, points: Tensor) -> tuple[Tensor, Tensor]:
    """Density and colour."""
    parts = [field(part) for part in points.split(points_at_once(field, MEMORY))]
    density, colour = (torch.cat(each) for each in zip(*parts, strict=True))
    return density, colour


def _around(means: Tensor, colour: Tensor) -> dict[str, Tensor]:
    """Round ones, half as wide as their distance to their nearest neighbours (Kerbl et al. 2023, section 5.1,
    have all of it), as nearly transparent as the ball."""
    n = len(means)
    near = min(NEIGHBOURS, n - 1)
    spacing = torch.full((n,), ALONE)
    if near > 0:
        distance = cKDTree(means.numpy()).query(means.numpy(), k=near + 1)[0][:, 1:]
        spacing = torch.from_numpy(np.sqrt((distance**2).mean(1))).float()
    scale = (spacing / 2).clamp(min=1e-4)
    return {
        "means": means,
        "log_scales": scale.log()[:, None].expand(n, 3),
        "quaternions": torch.tensor([1.0, 0, 0, 0]).expand(n, 4),
        "opacity_logits": torch.full((n,), math.log(OPACITY / (1 - OPACITY))),
        "colour_logits": colour_logits(colour),
    }
