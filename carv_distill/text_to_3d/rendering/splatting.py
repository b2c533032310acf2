"""Pictures of 3D Gaussians by splatting, in plain torch or by gsplat."""

from __future__ import annotations

import math
from functools import cache

import torch
from filelock import FileLock
from torch import Tensor

from carv_distill.errors import UserError
from carv_distill.files import cache_folder
from carv_distill.geometry.camera import Cameras

from .gaussians import ALPHA_MAX, ALPHA_MIN, LOW_PASS, NEAR, Footprints, Gaussians, project
from .rendered import Rendered, Splats

TILE = 8
"""Pixels along the side of the squares that are composited one by one."""


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
    device = gaussians.means.device
    chosen = choose_backend(backend, device, gaussians.means.dtype)
    draw = _by_gsplat if chosen == "gsplat" else _by_torch
    with torch.autocast(device.type, enabled=False):  # in half precision a Gaussian would move by pixels
        return draw(gaussians, cameras, size, behind)


def choose_backend(backend: str, device: torch.device | str, dtype: torch.dtype = torch.float32) -> str:
    """torch or gsplat, as asked for and as device and precision have it.

    Raises:
        UserError: gsplat was asked for by name, and the device is no CUDA device, the Gaussians are not in
            float32, or the package cannot run.
    """
    kind = torch.device(device).type
    if backend == "torch" or (backend == "auto" and (kind != "cuda" or dtype != torch.float32)):
        return "torch"
    if kind != "cuda":
        fault: str | None = f"it needs a CUDA device, and this run has {kind}"
    elif dtype != torch.float32:
        fault = "its kernels are of float32, and trainer.precision is 64-true"
    else:
        fault = gsplat_fault()
    if fault and backend == "gsplat":
        raise UserError(f"scene.gaussians.backend: gsplat cannot run: {fault}; allowed here: auto, torch")
    return "torch" if fault else "gsplat"


@cache
def gsplat_fault() -> str | None:
    """Why gsplat cannot run, None if it can. Where it was installed from source this builds its kernels, one
    process after another: gsplat removes a build that it takes for abandoned."""
    lock = cache_folder("gsplat") / "build.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        # The package itself imports without them, too.
        with FileLock(lock):
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

    image, opacity, about = rasterization(
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
    splats = Splats(about["means2d"], (about["radii"] > 0).all(-1))
    return Rendered(image.movedim(-1, 1), opacity.movedim(-1, 1), splats)


def _by_torch(gaussians: Gaussians, cameras: Cameras, size: int, behind: Tensor) -> Rendered:
    seen = project(gaussians, cameras, size)
    layers = torch.stack([_composite(gaussians, seen, i, size) for i in range(len(cameras))])
    image, opacity = layers[:, :3], layers[:, 3:]
    image = image + (1 - opacity) * behind[:, :, None, None]
    return Rendered(image, opacity, Splats(seen.place, seen.visible(size)))


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
