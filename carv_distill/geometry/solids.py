"""Solids as signed distances, and pictures of them by sphere tracing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .camera import Cameras

Solid = Callable[[Tensor], Tensor]
"""Signed distance (or a bound below it) of points [..., 3] to a surface near radius 0.6, [...]."""

LIGHT = (0.4, 0.8, 0.45)
"""Direction to the light; the camera's own is added, so that no side is dark."""
BACKGROUND = 0.5
REACH = 0.75
"""Every solid lies within this distance of the origin."""


def ball(p: Tensor) -> Tensor:
    """Radius 0.55."""
    return p.norm(dim=-1) - 0.55


def cube(p: Tensor) -> Tensor:
    """Half side 0.42, edges rounded."""
    return _box(p, (0.40, 0.40, 0.40)) - 0.02


def torus(p: Tensor) -> Tensor:
    """Lying flat: ring 0.42, tube 0.18."""
    ring = torch.stack([p[..., [0, 2]].norm(dim=-1) - 0.42, p[..., 1]], -1)
    return ring.norm(dim=-1) - 0.18


def cylinder(p: Tensor) -> Tensor:
    """Upright: radius 0.36, half height 0.5."""
    d = torch.stack([p[..., [0, 2]].norm(dim=-1) - 0.36, p[..., 1].abs() - 0.5], -1)
    return d.amax(-1).clamp(max=0) + d.clamp(min=0).norm(dim=-1)


def cone(p: Tensor) -> Tensor:
    """Upright: base radius 0.5 at −0.5, tip at 0.6."""
    radius, height = p[..., [0, 2]].norm(dim=-1), p[..., 1]
    slope = torch.tensor([1.1, 0.5], dtype=p.dtype, device=p.device)
    slope = slope / slope.norm()
    side = slope[0] * radius + slope[1] * (height - 0.6)
    return torch.maximum(side, -height - 0.5)


def octahedron(p: Tensor) -> Tensor:
    """Corners at 0.65."""
    return (p.abs().sum(-1) - 0.65) / 3**0.5


def capsule(p: Tensor) -> Tensor:
    """Upright: radius 0.24, straight part of half length 0.36."""
    on_axis = torch.stack([p[..., 0], p[..., 1] - p[..., 1].clamp(-0.36, 0.36), p[..., 2]], -1)
    return on_axis.norm(dim=-1) - 0.24


def snowman(p: Tensor) -> Tensor:
    """Three balls, the largest below."""
    heights = torch.tensor([-0.32, 0.12, 0.45], dtype=p.dtype, device=p.device)
    radii = torch.tensor([0.32, 0.23, 0.16], dtype=p.dtype, device=p.device)
    up = p[..., None, :] - heights[:, None] * torch.tensor([0.0, 1.0, 0.0], dtype=p.dtype, device=p.device)
    return (up.norm(dim=-1) - radii).amin(-1)


def chair(p: Tensor) -> Tensor:
    """A seat on four legs, its back towards −z: no two sides look alike but left and right."""
    seat = _box(p - _at(p, 0, -0.02, 0), (0.30, 0.04, 0.30))
    back = _box(p - _at(p, 0, 0.28, -0.26), (0.30, 0.27, 0.04))
    legs = torch.stack([p[..., 0].abs(), p[..., 1], p[..., 2].abs()], -1) - _at(p, 0.25, -0.28, 0.25)
    return torch.minimum(torch.minimum(seat, back), _box(legs, (0.05, 0.24, 0.05)))


def mug(p: Tensor) -> Tensor:
    """Open at the top: radius 0.32, half height 0.38; its handle towards +x."""
    radius, height = p[..., [0, 2]].norm(dim=-1), p[..., 1]
    outside = torch.maximum(radius - 0.32, height.abs() - 0.38)
    inside = torch.maximum(radius - 0.25, -0.30 - height)
    ring = torch.stack([(p[..., :2] - _at(p, 0.36, 0, 0)[:2]).norm(dim=-1) - 0.19, p[..., 2]], -1)
    handle = torch.maximum(ring.norm(dim=-1) - 0.06, 0.28 - radius)
    return torch.minimum(torch.maximum(outside, -inside), handle)


SOLIDS: Mapping[str, Solid] = {
    f.__name__: f for f in (ball, cube, torus, cylinder, cone, octahedron, capsule, snowman)
}
"""Those that stand in labels, in this order."""
SIDED: Mapping[str, Solid] = {f.__name__: f for f in (chair, mug)}
"""Those that look different from different sides."""


class Surface(NamedTuple):
    """Where rays met a solid, m of them."""

    rays: Tensor
    """int64 [m], of cameras, rows and columns in order."""
    points: Tensor
    """[m, 3]."""
    normals: Tensor
    """Unit, outwards, [m, 3]."""
    toward: Tensor
    """The rays' unit directions, [m, 3]."""


@torch.no_grad()
def meet(solid: Solid, cameras: Cameras, size: int, steps: int = 48) -> Surface:
    """What the rays of size × size pixels meet.

    Sphere tracing: a ray goes on by the distance it is from the surface (Hart, 1996).
    """
    origins, directions = cameras.rays(size)
    place, toward = origins.expand_as(directions).reshape(-1, 3), directions.reshape(-1, 3)
    near = (cameras.range - 1.0)[:, None, None].expand(directions.shape[:-1]).clamp(min=0).flatten()
    far = (cameras.range + 1)[:, None, None].expand(directions.shape[:-1]).flatten()
    # Only rays that may still meet the solid cost anything: none far beside it, none already past it.
    closest = place - (place * toward).sum(-1, keepdim=True) * toward
    seen = (closest.norm(dim=-1) < REACH).nonzero().squeeze(1)
    rays = torch.cat([place, toward, near[:, None], far[:, None]], 1)[seen]
    for step in range(steps):
        rays[:, 6] += solid(_along(rays))
        if step % 8 == 7:
            going = rays[:, 6] < rays[:, 7]
            seen, rays = seen[going], rays[going]
    points = _along(rays)
    on = (solid(points).abs() < 5e-3) & (rays[:, 6] < rays[:, 7])
    seen, points = seen[on], points[on]
    h = 1e-3
    axes = torch.eye(3, dtype=points.dtype, device=points.device) * h
    normals = torch.stack([solid(points + e) - solid(points - e) for e in axes], -1)
    return Surface(seen, points, torch.nn.functional.normalize(normals, dim=-1), toward[seen])


@torch.no_grad()
def trace(
    solid: Solid,
    colour: tuple[float, float, float],
    cameras: Cameras,
    size: int,
    samples: int = 2,
    steps: int = 48,
) -> Tensor:
    """Pictures [n, 3, size, size] in [0, 1] of a matt solid on grey, `samples`² rays per pixel."""
    side = size * samples
    hit = meet(solid, cameras, side, steps)
    light = torch.tensor(LIGHT, dtype=hit.points.dtype, device=hit.points.device)
    light = torch.nn.functional.normalize(light, dim=0)
    facing = -(hit.normals * hit.toward).sum(-1)
    lit = 0.35 + 0.4 * (hit.normals @ light).clamp(min=0) + 0.25 * facing.clamp(min=0)
    image = hit.points.new_full((len(cameras) * side * side, 3), BACKGROUND)
    image[hit.rays] = lit[:, None] * torch.tensor(colour, dtype=lit.dtype, device=lit.device)
    image = image.view(len(cameras), side, side, 3).permute(0, 3, 1, 2)
    return torch.nn.functional.avg_pool2d(image, samples)


def _along(rays: Tensor) -> Tensor:
    """The points that rays (origin, direction, depth, greatest depth), [m, 8], have reached, [m, 3]."""
    return rays[:, :3] + rays[:, 6:7] * rays[:, 3:6]


def _at(p: Tensor, x: float, y: float, z: float) -> Tensor:
    return torch.tensor([x, y, z], dtype=p.dtype, device=p.device)


def _box(p: Tensor, half: tuple[float, float, float]) -> Tensor:
    d = p.abs() - torch.tensor(half, dtype=p.dtype, device=p.device)
    return d.amax(-1).clamp(max=0) + d.clamp(min=0).norm(dim=-1)
