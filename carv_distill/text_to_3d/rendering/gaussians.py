"""3D Gaussians, and what cameras see of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from carv_distill.geometry.camera import Cameras

LOW_PASS = 0.3
"""Variance of the filter that keeps a Gaussian from falling between pixels, pixel²."""
NEAR = 0.01
"""Gaussians nearer to the camera's plane are not seen."""
ALPHA_MIN, ALPHA_MAX = 1 / 255, 0.999
"""Below the first a Gaussian does not touch a pixel; the second is as opaque as it gets."""


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

    def visible(self, size: int) -> Tensor:
        """Whether the box reaches a picture of `size` × `size` pixels, [n, N]."""
        place = self.place.detach()
        inside = (place + self.reach > 0) & (place - self.reach < size) & (self.reach > 0)
        return inside.all(-1)


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
