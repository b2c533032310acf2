"""Pictures of a radiance field by quadrature along rays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from carv_distill.geometry.camera import Cameras
from carv_distill.geometry.solids import BACKGROUND

Field = Callable[[Tensor], tuple[Tensor, Tensor]]
"""points [n, 3] → (density [n] per unit length, colour [n, 3])."""

SHADES = {"grey": BACKGROUND, "white": 1.0, "black": 0.0}


@dataclass(frozen=True)
class Rendered:
    """n pictures."""

    image: Tensor
    """[n, 3, S, S] in [0, 1]."""
    opacity: Tensor
    """[n, 1, S, S]: the share of each pixel that is not background."""


def march(
    field: Field,
    extent: float,
    cameras: Cameras,
    size: int,
    samples: int,
    generator: torch.Generator | None = None,
    background: str = "grey",
) -> Rendered:
    """Emission and absorption along the rays through `size` × `size` pixels,

        C = Σ_i T_i (1 − exp(−σ_i δ)) c_i + T_end · background,    T_i = exp(−Σ_{j<i} σ_j δ),

    with one point in each of `samples` equal parts of the ray's way through the cube [−extent, extent]³: at
    random within its part if there is a generator, in the middle if not.

    Args:
        background: grey | white | black | random, the last a colour for each picture.

    Source: Max 1995; NeRF (Mildenhall et al. 2020), equations 2 and 3.
    """
    origins, directions = cameras.rays(size)
    near, far = _through_cube(origins, directions, extent)
    shape = (*near.shape, samples)
    place = torch.arange(samples, device=near.device, dtype=near.dtype)
    if generator is None:
        place = (place + 0.5).expand(shape)
    else:
        place = place + torch.rand(shape, generator=generator, device=near.device, dtype=near.dtype)
    step = (far - near) / samples
    depth = near[..., None] + step[..., None] * place
    points = origins[..., None, :] + depth[..., None] * directions[..., None, :]
    density, colour = field(points.view(-1, 3))
    absorbed = density.view(shape) * step[..., None]
    passed = torch.exp(-absorbed.cumsum(-1))
    before = torch.cat([torch.ones_like(passed[..., :1]), passed[..., :-1]], -1)
    weight = before - passed
    opacity = 1 - passed[..., -1]
    image = (weight[..., None] * colour.view(*shape, 3)).sum(-2)
    behind = background_colours(background, len(cameras), generator, near)
    image = image + passed[..., -1:] * behind[:, None, None]
    return Rendered(image.movedim(-1, 1), opacity[:, None])


def _through_cube(origins: Tensor, directions: Tensor, extent: float) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave the cube; a ray beside it leaves where it enters."""
    # A ray along a face divides by almost nothing, not by nothing.
    safe = torch.where(directions.abs() < 1e-9, 1e-9, directions)
    ends = torch.stack([(-extent - origins) / safe, (extent - origins) / safe])
    near = ends.amin(0).amax(-1).clamp(min=0)
    return near, torch.maximum(ends.amax(0).amin(-1), near)


def background_colours(name: str, count: int, generator: torch.Generator | None, like: Tensor) -> Tensor:
    """A colour for each of `count` pictures, [n, 3]: grey | white | black | random."""
    if name == "random":
        return torch.rand(count, 3, generator=generator, device=like.device, dtype=like.dtype)
    return like.new_full((count, 3), SHADES[name])
