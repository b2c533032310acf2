"""Pictures: of fields by quadrature along rays, of 3D Gaussians by splatting, in plain torch or by gsplat."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from carv_distill.errors import UserError
from carv_distill.geometry.camera import Cameras
from carv_distill.geometry.solids import BACKGROUND

Field = Callable[[Tensor], tuple[Tensor, Tensor]]
"""points [n, 3] → (density [n] per unit length, colour [n, 3])."""

SHADES = {"grey": BACKGROUND, "white": 1.0, "black": 0.0}
LOW_PASS = 0.3
"""Variance of the filter that keeps a Gaussian from falling between pixels, pixel²."""
NEAR = 0.01
"""Gaussians nearer to the camera's plane are not seen."""
ALPHA_MIN, ALPHA_MAX = 1 / 255, 0.999
"""Below the first a Gaussian does not touch a pixel; the second is as opaque as it gets."""
TILE = 8
"""Pixels along the side of the squares that are composited one by one."""


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
    rows: int | None = None,
) -> Rendered:
    """Emission and absorption along the rays through `size` × `size` pixels,

        C = Σ_i T_i (1 − exp(−σ_i δ)) c_i + T_end · background,    T_i = exp(−Σ_{j<i} σ_j δ),

    with one point in each of `samples` equal parts of the ray's way through the cube [−extent, extent]³: at
    random within its part if there is a generator, in the middle if not. For `background` see
    :func:`background_colours`.

    Args:
        rows: of the pictures that are marched at once, which bounds the memory of what needs no gradient;
            None is all. With a generator the points differ with it.

    Source: Max 1995; NeRF (Mildenhall et al. 2020), equations 2 and 3.
    """
    step = rows or size
    bands = (cameras.rays(size, slice(top, top + step)) for top in range(0, size, step))
    parts = [_march_rays(field, extent, *rays, samples, generator) for rays in bands]
    image, passed = (torch.cat(each, 1) for each in zip(*parts, strict=True))
    behind = background_colours(background, len(cameras), generator, image)
    image = image + passed * behind[:, None, None]
    return Rendered(image.movedim(-1, 1), 1 - passed.movedim(-1, 1))


MARCH_BYTES = 16, 68
"""That :func:`march` itself holds of a point in float32 while the field is asked, and after it."""


def _march_rays(
    field: Field,
    extent: float,
    origins: Tensor,
    directions: Tensor,
    samples: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Over black, [..., 3], and the light that passes, T_end, [..., 1], of rays [..., 3]."""
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
    # The last one alone: a view would keep the light at all points.
    return (weight[..., None] * colour.view(*shape, 3)).sum(-2), passed[..., -1:].clone()


def _through_cube(origins: Tensor, directions: Tensor, extent: float) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave the cube; a ray beside it leaves where it enters."""
    # A ray along a face divides by almost nothing, not by nothing.
    safe = torch.where(directions.abs() < 1e-9, 1e-9, directions)
    ends = torch.stack([(-extent - origins) / safe, (extent - origins) / safe])
    near = ends.amin(0).amax(-1).clamp(min=0)
    return near, torch.maximum(ends.amax(0).amin(-1), near)


def background_colours(name: str, count: int, generator: torch.Generator | None, like: Tensor) -> Tensor:
    """Of each of `count` pictures, [n, 3]: grey | white | black | random, the last one for each picture."""
    if name == "random":
        return torch.rand(count, 3, generator=generator, device=like.device, dtype=like.dtype)
    return like.new_full((count, 3), SHADES[name])


@dataclass(frozen=True)
class Gaussians:
    """N Gaussians o exp(−½ (p − μ)ᵀ Σ⁻¹ (p − μ)) with Σ = R S S Rᵀ.

    Args:
        means: μ, [N, 3].
        quaternions: of the rotations R, (w, x, y, z), of any length but 0, [N, 4].
        scales: the diagonals of S, standard deviations > 0, [N, 3].
        opacity: o in (0, 1), [N].
        colour: in [0, 1], the same from all sides, [N, 3].
    """

    means: Tensor
    quaternions: Tensor
    scales: Tensor
    opacity: Tensor
    colour: Tensor


@dataclass(frozen=True)
class Footprints:
    """What n cameras see of N Gaussians: o exp(−½ (a Δx² + 2 b Δx Δy + c Δy²)) around a place in the picture.

    Args:
        place: column and row, pixels, [n, N, 2].
        conic: a, b, c: the inverse of the covariance in the picture, [n, N, 3].
        reach: half the width and height of the box outside of which it is below ALPHA_MIN, pixels, [n, N, 2].
        depth: along the camera's axis, [n, N].
    """

    place: Tensor
    conic: Tensor
    reach: Tensor
    depth: Tensor


def splat(
    gaussians: Gaussians, cameras: Cameras, size: int, behind: Tensor, backend: str = "auto"
) -> Rendered:
    """Pictures of `size` × `size` pixels, from front to back over the Gaussians sorted by depth,

        C = Σ_i T_i α_i c_i + T_end · background,    T_i = Π_{j<i} (1 − α_j),
        α_i = o_i exp(−½ Δᵀ (Σ'_i + 0.3 I)⁻¹ Δ),    Σ' = J W Σ Wᵀ Jᵀ,

    with Σ' the Gaussian as the camera sees it to first order, Δ pixels, and α below 1/255 left out.

    Args:
        behind: background of each picture, [n, 3].
        backend: auto | torch | gsplat; auto takes gsplat on a CUDA device where it can run.

    Source: Zwicker et al. 2001 (EWA splatting); Kerbl et al. 2023, equations 2, 3 and 5, with the limits
    of gsplat's ``rasterize_mode="classic"``, but for its end of a pixel that 1e-4 of the light is left to.
    """
    if choose_backend(backend, gaussians.means.device) == "gsplat":
        return _by_gsplat(gaussians, cameras, size, behind)
    return _by_torch(gaussians, cameras, size, behind)


def choose_backend(backend: str, device: torch.device | str) -> str:
    """torch or gsplat, as asked for and as the device has it.

    Raises:
        UserError: gsplat was asked for by name, and the device is no CUDA device or the package cannot run.
    """
    kind = torch.device(device).type
    if backend == "torch" or (backend == "auto" and kind != "cuda"):
        return "torch"
    fault = gsplat_fault() if kind == "cuda" else f"it needs a CUDA device, and this run has {kind}"
    if fault and backend == "gsplat":
        raise UserError(f"scene.gaussians.backend: gsplat cannot run: {fault}; allowed here: auto, torch")
    return "torch" if fault else "gsplat"


@cache
def gsplat_fault() -> str | None:
    """Why gsplat cannot run, None if it can. Where it was installed from source this builds its kernels."""
    try:
        # The package itself imports without them, too.
        from gsplat.cuda import _backend
    except ModuleNotFoundError as error:
        if error.name == "gsplat":
            return "it is not installed (pip install 'carv-distill[gsplat]')"
        return f"it lacks {error.name}"
    except (ImportError, RuntimeError, OSError) as error:
        return f"its CUDA kernels could not be built or loaded ({' '.join(str(error).split())[:200]})"
    return "it found no CUDA toolkit (nvcc) to build its kernels with" if _backend._C is None else None


def _by_gsplat(gaussians: Gaussians, cameras: Cameras, size: int, behind: Tensor) -> Rendered:
    from gsplat import rasterization

    image, opacity, _ = rasterization(
        means=gaussians.means,
        quats=gaussians.quaternions,
        scales=gaussians.scales,
        opacities=gaussians.opacity,
        colors=gaussians.colour,
        viewmats=cameras.view_matrices(),
        Ks=cameras.intrinsics(size),
        width=size,
        height=size,
        near_plane=NEAR,
        eps2d=LOW_PASS,
        packed=False,  # an object before the camera: every Gaussian is in every picture
        backgrounds=behind,
        render_mode="RGB",
        rasterize_mode="classic",
    )
    return Rendered(image.movedim(-1, 1), opacity.movedim(-1, 1))


def _by_torch(gaussians: Gaussians, cameras: Cameras, size: int, behind: Tensor) -> Rendered:
    # In half precision a Gaussian would move by pixels.
    with torch.autocast(gaussians.means.device.type, enabled=False):
        seen = project(gaussians, cameras, size)
        layers = torch.stack([_composite(gaussians, seen, i, size) for i in range(len(cameras))])
    image, opacity = layers[:, :3], layers[:, 3:]
    return Rendered(image + (1 - opacity) * behind[:, :, None, None], opacity)


def rotations(quaternions: Tensor) -> Tensor:
    """Matrices of quaternions (w, x, y, z) of any length, [N, 4] → [N, 3, 3]."""
    w, x, y, z = F.normalize(quaternions, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def project(gaussians: Gaussians, cameras: Cameras, size: int) -> Footprints:
    """The Gaussians as cameras see them to first order around their means (Kerbl et al. 2023, equation 5)."""
    view, focal = cameras.view_matrices(), cameras.intrinsics(size)[:, 0, 0, None]
    turn = view[:, None, :3, :3]
    x, y, z = ((turn @ gaussians.means[:, :, None]).squeeze(-1) + view[:, None, :3, 3]).unbind(-1)
    # behind the camera: anywhere but at 0, where gradients end
    z = torch.where(z > NEAR, z, z.detach() * 0 - 1)
    # The tangent at the mean says little of what is seen far outside of the picture: it is held at its rim.
    rim = 1.3 * (cameras.fov / 2).tan()[:, None]
    slope_x, slope_y = (torch.clamp(s / z, -rim, rim)[..., None] for s in (x, y))
    # Rows of W R S, and from them of J W R S, whose product with its transpose is Σ'.
    r_x, r_y, r_z = (turn @ (rotations(gaussians.quaternions) * gaussians.scales[:, None, :])).unbind(-2)
    per_depth = (focal / z)[..., None]
    j_x, j_y = per_depth * (r_x - slope_x * r_z), per_depth * (r_y - slope_y * r_z)
    xx, xy, yy = (j_x * j_x).sum(-1) + LOW_PASS, (j_x * j_y).sum(-1), (j_y * j_y).sum(-1) + LOW_PASS
    conic = torch.stack([yy, -xy, xx], -1) / (xx * yy - xy * xy)[..., None]
    with torch.no_grad():
        spread = (2 * (gaussians.opacity / ALPHA_MIN).log()).clamp(min=0).sqrt() * (z > 0)
        reach = spread[..., None] * torch.stack([xx, yy], -1).sqrt()
    place = torch.stack([x, y], -1) * per_depth + size / 2
    return Footprints(place, conic, reach, z)


def _composite(gaussians: Gaussians, seen: Footprints, i: int, size: int) -> Tensor:
    """Colour over black, and opacity, of what camera i sees, [4, S, S]: each tile of those Gaussians alone
    that reach it."""
    tiles = math.ceil(size / TILE)
    start = TILE * torch.arange(tiles, device=seen.depth.device)
    order = seen.depth[i].detach().argsort()
    place, reach = seen.place[i][order], seen.reach[i][order]
    conic, opacity = seen.conic[i][order], gaussians.opacity[order]
    paint = torch.cat([gaussians.colour[order], torch.ones_like(opacity)[:, None]], -1)
    with torch.no_grad():
        # Pixel centres from start + 0.5 to start + TILE − 0.5, by column and by row.
        low, high = place - reach - (TILE - 0.5), place + reach - 0.5
        touched = (low <= start[:, None, None]) & (start[:, None, None] <= high) & (reach > 0)
        hit = touched[:, None, :, 1] & touched[None, :, :, 0]
        chosen = hit.view(tiles * tiles, -1).nonzero()[:, 1].split(hit.sum(-1).flatten().tolist())
    inside = torch.arange(TILE, device=place.device, dtype=place.dtype) + 0.5
    layers = []
    for tile, these in enumerate(chosen):
        row, column = divmod(tile, tiles)
        a, b, c = conic[these].unbind(-1)
        x, y = place[these].unbind(-1)
        dx, dy = inside[:, None] + (column * TILE - x), inside[:, None] + (row * TILE - y)
        along = opacity[these].log() - 0.5 * a * dx.square()
        exponent = along[None] - (0.5 * c * dy.square())[:, None] - (b * dy)[:, None] * dx[None]
        alpha = exponent.exp().clamp(max=ALPHA_MAX)
        alpha = torch.where(alpha < ALPHA_MIN, 0, alpha)
        passed = torch.log1p(-alpha).cumsum(-1).exp()
        before = torch.cat([torch.ones_like(passed[..., :1]), passed[..., :-1]], -1)
        layers.append((before - passed) @ paint[these])
    whole = torch.stack(layers).view(tiles, tiles, TILE, TILE, 4)
    return whole.permute(4, 0, 2, 1, 3).reshape(4, tiles * TILE, tiles * TILE)[:, :size, :size]
