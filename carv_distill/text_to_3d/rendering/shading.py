"""Surfaces in the light: normals of a density, point lights, diffuse reflection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from carv_distill.geometry.camera import Cameras
from carv_distill.text_to_3d.rendering_options import ShadingOptions

FLAT = 1e-3
"""A gradient of the density that is far below has no direction: its normal is short."""


def normals(density: Callable[[Tensor], Tensor], points: Tensor, step: float) -> Tensor:
    """Of the surfaces of equal density σ, towards less of it, [n, 3], of a length below 1:

        n = −∇σ / √(‖∇σ‖² + 1e-6),    ∂σ/∂p_i ≈ (σ(p + h e_i) − σ(p − h e_i)) / 2h.

    By differences, as torch has no second derivatives of a look-up in a grid, which the gradient of a normal
    by autograd would take; and as a grid's gradient jumps from cell to cell, where differences go over. In
    full precision also under autocast: differences of bfloat16 are mostly rounding.

    Args:
        step: h.

    Source: DreamFusion (arXiv 2209.14988), section 3.1, but for the differences, which threestudio has.
    """
    shift = step * torch.eye(3, device=points.device, dtype=points.dtype)
    around = torch.cat([shift, -shift])[:, None] + points
    with torch.autocast(points.device.type, enabled=False):
        after, before = density(around.view(-1, 3)).view(2, 3, -1)
    slope = (after - before) / (2 * step)
    return -(slope / (slope.square().sum(0) + FLAT**2).sqrt()).T


@dataclass(frozen=True)
class Lights:
    """What n renders have of light: that from everywhere, and that of one point each."""

    place: Tensor
    """Of the point lights, [n, 3]."""
    ambient: Tensor
    diffuse: Tensor
    """Shares of what is reflected, [n]."""
    texture: Tensor
    """[n]: 1 where the field's own colours are seen, 0 where white is in their place."""

    def on(self, colour: Tensor, normal: Tensor, points: Tensor) -> Tensor:
        """Colours c as they are seen, [n, …, 3]: c (ambient + diffuse · max(n · l, 0)), l the direction to
        the light, which is as bright from near and far."""
        place, ambient, diffuse, texture = (
            value.view(len(value), *[1] * (points.ndim - 2), -1)
            for value in (self.place, self.ambient, self.diffuse, self.texture)
        )
        facing = (normal * F.normalize(place - points, dim=-1)).sum(-1, keepdim=True).clamp(min=0)
        return (texture * colour + (1 - texture)) * (ambient + diffuse * facing)


def albedo(cameras: Cameras) -> Lights:
    """Of renders that show the field's colours as they are, with normals all the same."""
    one = torch.ones_like(cameras.azimuth)
    return Lights(cameras.position, one, 0 * one, one)


def draw_lights(options: ShadingOptions, cameras: Cameras, g: torch.Generator) -> Lights | None:
    """Of each camera's render: albedo, textureless or lambertian by the options' shares, with a light

        r · normalised(camera + noise · ξ),    ξ ~ N(0, I),    r uniform in [least, greatest distance].

    None where all are albedo, which need no normals. The same count of numbers is drawn in any case.

    Source: DreamFusion (arXiv 2209.14988), section 3.1; the numbers of threestudio.
    """
    o, n, like = options, len(cameras), cameras.azimuth
    kind, far = torch.rand(2, n, generator=g, device=g.device, dtype=like.dtype)
    noise = torch.randn(n, 3, generator=g, device=g.device, dtype=like.dtype)
    lit = kind < o.textureless + o.lambertian
    if not bool(lit.any()):
        return None
    least, greatest = o.distance
    place = F.normalize(cameras.position + o.noise * noise, dim=-1)
    return Lights(
        (least + (greatest - least) * far)[:, None] * place,
        torch.where(lit, o.ambient, 1.0).to(like),
        torch.where(lit, 1 - o.ambient, 0.0).to(like),
        torch.where(kind < o.textureless, 0.0, 1.0).to(like),
    )
