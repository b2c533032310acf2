"""Pictures of fields, by quadrature along rays."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from carv_distill.geometry.camera import Cameras

from .rendered import Rendered, background_colours
from .shading import Lights

Field = Callable[[Tensor], tuple[Tensor, Tensor]]
"""points [n, 3] → (density [n] per unit length, colour [n, 3])."""
Normals = Callable[[Tensor], Tensor]
"""points [n, 3] → normals [n, 3]."""


def march(
    field: Field,
    extent: float,
    cameras: Cameras,
    size: int,
    samples: int,
    generator: torch.Generator | None = None,
    background: str = "grey",
    rows: int | None = None,
    lights: Lights | None = None,
    normals: Normals | None = None,
) -> Rendered:
    """Emission and absorption along the rays through `size` × `size` pixels,

        C = Σ_i T_i (1 − exp(−σ_i δ)) c_i + T_end · background,    T_i = exp(−Σ_{j<i} σ_j δ),

    with one point in each of `samples` equal parts of the ray's way through the cube [−extent, extent]³: at
    random within its part if there is a generator, in the middle if not. For `background` see
    :func:`background_colours`.

    Args:
        rows: of the pictures that are marched at once, which bounds the memory of what needs no gradient;
            None is all. With a generator the points differ with it.
        lights: each c_i is as they shine on it; None: as the field has it.
        normals: of the field, which lights need.

    Source: Max 1995; NeRF (Mildenhall et al. 2020), equations 2 and 3.
    """
    step = rows or size
    bands = (cameras.rays(size, slice(top, top + step)) for top in range(0, size, step))
    parts = [march_rays(field, extent, *rays, samples, generator, lights, normals) for rays in bands]
    image, passed, *facing = (torch.cat(each, 1) for each in zip(*parts, strict=True))
    behind = background_colours(background, len(cameras), generator, image)
    image = image + passed * behind[:, None, None]
    orientation = facing[0].movedim(-1, 1) if facing else None
    return Rendered(image.movedim(-1, 1), 1 - passed.movedim(-1, 1), orientation=orientation)


MARCH_BYTES = 16, 68
"""That :func:`march` itself holds of a point in float32 while the field is asked, and after it."""


def march_rays(
    field: Field,
    extent: float,
    origins: Tensor,
    directions: Tensor,
    samples: int,
    generator: torch.Generator | None = None,
    lights: Lights | None = None,
    normals: Normals | None = None,
) -> tuple[Tensor, ...]:
    """What :func:`march` sees along any rays [..., 3]: Σ_i w_i c_i over black, of the field's channels,
    [..., C]; the light that passes, T_end, [..., 1]; with lights how much faces away, [..., 1]."""
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
    colour = colour.view(*shape, -1)
    facing: tuple[Tensor, ...] = ()
    if lights is not None:
        assert normals is not None
        normal = normals(points.view(-1, 3)).view(*shape, 3)
        colour = lights.on(colour, normal, points)
        away = (normal * directions[..., None, :]).sum(-1).clamp(min=0).square()
        facing = ((weight.detach() * away).sum(-1, keepdim=True),)
    # The last one alone: a view would keep the light at all points.
    return (weight[..., None] * colour).sum(-2), passed[..., -1:].clone(), *facing


def _through_cube(origins: Tensor, directions: Tensor, extent: float) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave the cube; a ray beside it leaves where it enters."""
    # A ray along a face divides by almost nothing, not by nothing.
    safe = torch.where(directions.abs() < 1e-9, 1e-9, directions)
    ends = torch.stack([(-extent - origins) / safe, (extent - origins) / safe])
    near = ends.amin(0).amax(-1).clamp(min=0)
    return near, torch.maximum(ends.amax(0).amin(-1), near)
