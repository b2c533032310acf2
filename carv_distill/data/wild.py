"""Pictures of solids of which nothing but the solid is fixed: pose, place, textures, light and background
are drawn anew for every picture, and the prompt names the solid alone, as "a torus"."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.geometry.backdrops import CHOICES, NOISES, backdrops
from carv_distill.geometry.camera import CameraSampler
from carv_distill.geometry.solids import SIDED, SOLIDS, meet

WILD = {
    name: {**SOLIDS, **SIDED}[name]
    for name in ("ball", "cube", "torus", "cylinder", "cone", "snowman", "chair", "mug")
}
CAMERAS = CameraSampler(distance=(1.6, 2.3), fov=(45.0, 60.0), elevation=(-15.0, 60.0))
SHIFT = 0.12
"""Greatest shift along either side, as a share of the picture."""
SAMPLES = 2
"""Rays along one side of a pixel."""


def prompt_of(solid: str) -> str:
    """As "a cone"."""
    return f"a {solid}"


@dataclass(frozen=True, eq=False)
class WildSolids:
    """Views of solids, from which pictures without end are made."""

    normals: Tensor
    """float16 [V, 2S, 2S, 3]; 0 where a ray meets nothing."""
    points: Tensor
    """float16 [V, 2S, 2S, 3], on the surface."""
    labels: Tensor
    """The solid of each view, its place in :data:`WILD`, int64 [V]."""

    def __len__(self) -> int:
        return len(self.labels)

    def some(self, numbers: Tensor) -> WildSolids:
        """The views of these numbers, int64 [n]."""
        return WildSolids(self.normals[numbers], self.points[numbers], self.labels[numbers])

    def to(self, device: torch.device | str) -> WildSolids:
        """The same views on a device, where those that are asked for are then named."""
        return WildSolids(self.normals.to(device), self.points.to(device), self.labels.to(device))

    def pictures(self, views: Tensor, g: torch.Generator, plain: float = 0.0) -> Tensor:
        """A picture of each of these views, float32 [n, 3, S, S] in [−1, 1], everything else at random.

        Args:
            plain: the share of them on white, grey or black.
        """
        n, device = len(views), g.device

        def rand(*shape: int) -> Tensor:
            return torch.rand(n, *shape, generator=g, device=device)

        normals, points = self._moved(views, rand(2), rand() < 0.5)
        colours = _two_tones(points, rand(12)) * _light(normals, rand(4))[..., None]
        seen = (normals.square().sum(-1) > 0.25).float()[..., None]
        rgba = torch.cat([colours.clamp(0, 1) * seen, seen], -1).permute(0, 3, 1, 2)
        rgba = F.avg_pool2d(rgba, SAMPLES)
        noise = torch.randn(n, NOISES, *rgba.shape[2:], generator=g, device=device)
        behind = backdrops(noise, rand(CHOICES))
        if plain:
            level = (3 * rand(1, 1, 1)).floor().clamp(max=2) / 2
            behind = torch.where(rand(1, 1, 1) < plain, level, behind)
        return 2 * (rgba[:, :3] + (1 - rgba[:, 3:]) * behind) - 1

    def _moved(self, views: Tensor, shift: Tensor, mirror: Tensor) -> tuple[Tensor, Tensor]:
        """Normals and points, shifted by whole rays and, where so drawn, mirrored."""
        side = self.normals.shape[1]
        moves = ((2 * shift - 1) * SHIFT * side).round().long()
        place = torch.arange(side, device=views.device)
        rows, columns = (place - moves[:, i, None] for i in (0, 1))
        columns = torch.where(mirror[:, None], side - 1 - columns, columns)
        there = _inside(rows, side)[:, :, None] & _inside(columns, side)[:, None, :]
        at = (views[:, None, None], rows.clamp(0, side - 1)[:, :, None], columns.clamp(0, side - 1)[:, None])
        normals, points = (t[at].float() * there[..., None] for t in (self.normals, self.points))
        return normals, points


def wild_solids(size: int = 32, views: int = 320, seed: int = 0) -> WildSolids:
    """So many views of each of :data:`WILD` for pictures of `size` pixels; a function of the three."""
    side = size * SAMPLES
    normals, points, labels = list[Tensor](), list[Tensor](), list[Tensor]()
    for label, (name, solid) in enumerate(WILD.items()):
        cameras = CAMERAS.sample(views, stream(seed, "wild", name))
        hit = meet(solid, cameras, side)
        for values, of_all in ((hit.normals, normals), (hit.points, points)):
            dense = torch.zeros(views * side * side, 3, dtype=torch.float16)
            dense[hit.rays] = values.half()
            of_all.append(dense.view(views, side, side, 3))
        labels.append(torch.full((views,), label))
    return WildSolids(torch.cat(normals), torch.cat(points), torch.cat(labels))


def _inside(place: Tensor, side: int) -> Tensor:
    return (place >= 0) & (place < side)


def _two_tones(points: Tensor, v: Tensor) -> Tensor:
    """Two random colours [n, h, w, 3] in a random pattern of stripes, patches or rings about an axis.

    v: uniform, [n, 12].
    """
    first, second = v[:, None, None, 0:3], v[:, None, None, 3:6]
    axis = F.normalize(torch.special.ndtri(v[:, 6:9].clamp(1e-4, 1 - 1e-4)), dim=1)
    frequency, phase = 1 + 4 * v[:, 9], 2 * math.pi * v[:, 10]
    along = (points * axis[:, None, None]).sum(-1)
    across = (points.square().sum(-1) - along.square()).clamp(min=0).sqrt()
    turns = math.pi * frequency[:, None, None]
    stripes = (turns * along + phase[:, None, None]).sin()
    rings = (2 * turns * across + phase[:, None, None]).sin()
    kind = v[:, 11, None, None]
    wave = torch.where(kind < 0.4, stripes, torch.where(kind < 0.7, rings, stripes * rings))
    share = torch.sigmoid(12 * wave)[..., None]
    return share * first + (1 - share) * second


def _light(normals: Tensor, v: Tensor) -> Tensor:
    """Brightness [n, h, w]: an ambient share of 0.3 … 0.6 and a lamp from above the horizon."""
    ambient = 0.3 + 0.3 * v[:, 0, None, None]
    turn, height = 2 * math.pi * v[:, 1], 0.9 * v[:, 2]
    flat = (1 - height.square()).sqrt()
    lamp = torch.stack([flat * turn.sin(), height, flat * turn.cos()], -1)
    facing = (normals * lamp[:, None, None]).sum(-1).clamp(min=0)
    strength = 0.9 + 0.3 * v[:, 3, None, None]
    return strength * (ambient + (1 - ambient) * facing)
