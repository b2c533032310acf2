"""Cameras as the browser has them, and ours in their terms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation
from torch import Tensor

from carv_distill.geometry.camera import ALL_ROWS, Cameras
from carv_distill.text_to_3d.rendering import rotations


@dataclass(frozen=True)
class BrowserCamera:
    """A pinhole camera in viser's terms: p_world = R p_camera + position in OpenCV's axes, x to the picture's
    right, y to its bottom, z forward."""

    rotation: Tensor
    """R, [3, 3]; its columns are right, down and forward in the world, where y is up."""
    position: Tensor
    """[3]."""
    fov: float
    """Full angle of view over the picture's height, radians."""
    aspect: float
    """Width over height."""

    @classmethod
    def of(cls, wxyz: ArrayLike, position: ArrayLike, fov: float, aspect: float) -> BrowserCamera:
        """From a quaternion of any length, in float64."""
        quaternion, place = (torch.as_tensor(np.array(v), dtype=torch.float64) for v in (wxyz, position))
        return cls(rotations(quaternion[None])[0], place, fov, aspect)

    def to(self, like: Tensor) -> BrowserCamera:
        """The same on the device of a tensor, and of its type."""
        return BrowserCamera(self.rotation.to(like), self.position.to(like), self.fov, self.aspect)

    def width(self, height: int) -> int:
        """Pixels of a row of a picture of so many rows."""
        return max(1, round(height * self.aspect))

    def rays(self, height: int, rows: slice = ALL_ROWS) -> tuple[Tensor, Tensor]:
        """Origins and unit directions through the pixels' centres, each [height, width, 3], or of some rows
        of them; row 0 is the picture's top, column 0 its left.

        Together the pixels have exactly the shape `aspect`, so that one may not be quite a square.
        """
        right, down, forward = self.rotation.unbind(1)
        reach = math.tan(self.fov / 2)
        y = reach * self._centres(height)[rows, None, None]
        x = reach * self.aspect * self._centres(self.width(height))[None, :, None]
        directions = F.normalize(x * right + y * down + forward, dim=-1)
        return self.position.expand_as(directions), directions

    def _centres(self, count: int) -> Tensor:
        """Of so many pixels on the way from −1 to 1."""
        like = self.position
        return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) / count * 2 - 1

    def depth(self, points: Tensor) -> Tensor:
        """How far along its axis points [n, 3] are, [n]."""
        return (points - self.position) @ self.rotation[:, 2]


@dataclass(frozen=True)
class Frustum:
    """One of our cameras in viser's terms; its picture is square."""

    wxyz: np.ndarray
    position: np.ndarray
    fov: float


def frusta(cameras: Cameras) -> list[Frustum]:
    """Of n cameras.

    R is the transpose of the view matrix's W = [right; −up; −back]: both are in OpenCV's axes.
    """
    turns = cameras.view_matrices()[:, :3, :3].mT.double().cpu().numpy()
    quaternions = np.roll(Rotation.from_matrix(turns).as_quat(), 1, axis=1)  # scipy has w last
    places = cameras.position.double().cpu().numpy()
    rows = zip(quaternions, places, cameras.fov.tolist(), strict=True)
    return [Frustum(wxyz, position, fov) for wxyz, position, fov in rows]
