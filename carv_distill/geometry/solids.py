"""Solids as signed distances, and pictures of them by sphere tracing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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


SOLIDS: Mapping[str, Solid] = {
    f.__name__: f for f in (ball, cube, torus, cylinder, cone, octahedron, capsule, snowman)
}


@torch.no_grad()
def trace(
    solid: Solid,
    colour: tuple[float, float, float],
    cameras: Cameras,
    size: int,
    samples: int = 2,
    steps: int = 48,
) -> Tensor:
    """Pictures [n, 3, size, size] in [0, 1] of a matt solid on grey, `samples`² rays per pixel.

    Sphere tracing: a ray goes on by the distance it is from the surface (Hart, 1996).
    """
    origins, directions = cameras.rays(size * samples)
    place, toward = origins.expand_as(directions).reshape(-1, 3), directions.reshape(-1, 3)
    near = (cameras.distance - 1.0)[:, None, None].expand(directions.shape[:-1]).clamp(min=0).flatten()
    far = (cameras.distance + 1)[:, None, None].expand(directions.shape[:-1]).flatten()
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
    normals = torch.nn.functional.normalize(normals, dim=-1)
    light = torch.tensor(LIGHT, dtype=points.dtype, device=points.device)
    light = torch.nn.functional.normalize(light, dim=0)
    lit = (
        0.35 + 0.4 * (normals @ light).clamp(min=0) + 0.25 * (-(normals * toward[seen]).sum(-1)).clamp(min=0)
    )
    image = torch.full_like(toward, BACKGROUND)
    image[seen] = lit[:, None] * torch.tensor(colour, dtype=points.dtype, device=points.device)
    image = image.view(directions.shape).permute(0, 3, 1, 2)
    return torch.nn.functional.avg_pool2d(image, samples)


def _along(rays: Tensor) -> Tensor:
    """The points that rays (origin, direction, depth, greatest depth), [m, 8], have reached, [m, 3]."""
    return rays[:, :3] + rays[:, 6:7] * rays[:, 3:6]


def _box(p: Tensor, half: tuple[float, float, float]) -> Tensor:
    d = p.abs() - torch.tensor(half, dtype=p.dtype, device=p.device)
    return d.amax(-1).clamp(max=0) + d.clamp(min=0).norm(dim=-1)
