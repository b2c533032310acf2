"""Pictures of a field for a browser's camera, as fine as the time allows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from carv_distill.data.sets import to_uint8
from carv_distill.text_to_3d.object.memory import rows_at_once
from carv_distill.text_to_3d.object.turntable import occupied_cells
from carv_distill.text_to_3d.options import SceneOptions
from carv_distill.text_to_3d.rendering import Field, march_rays
from carv_distill.text_to_3d.scenes import Scene

from .cameras import BrowserCamera

FAR = 160.0
"""Where no object is; viser's depths end at 167."""
LEAST = 32
"""Rows of a picture, at least."""
EXPECTED_RAYS = 2**20
"""Of the pictures of one state of a run: what a look for empty space is paid with."""


@dataclass(frozen=True)
class Picture:
    """What a camera sees."""

    pixels: np.ndarray
    """sRGB bytes, [H, W, 3]."""
    depth: np.ndarray
    """Along the camera's axis, float32, [H, W]; FAR where the background is most of what is seen."""


class FieldPainter:
    """Makes pictures of a finished field without jitter, by twice the points of its training's rays.

    Args:
        shade: of the background, in [0, 1].
        memory: GiB that a picture may take.
    """

    def __init__(self, scene: Scene, view: SceneOptions, shade: float, memory: float) -> None:
        self.scene, self.shade, self.memory = scene, shade, memory
        self.samples = 2 * view.samples
        self.field: Field = scene
        if (cells := occupied_cells(scene, self.samples, EXPECTED_RAYS, memory)) is not None:
            self.field = cells.field(scene)
        self.seconds_per_ray: float | None = None

    def height_within(self, seconds: float, aspect: float, greatest: int) -> int:
        """Rows of the largest picture that takes no longer, by the time of earlier ones; from LEAST on."""
        if self.seconds_per_ray is None:
            return LEAST
        rows = math.sqrt(seconds / self.seconds_per_ray / aspect)
        return max(LEAST, min(greatest, int(rows)))

    @torch.no_grad()
    def paint(
        self, camera: BrowserCamera, height: int, given_up: Callable[[], bool] = lambda: False
    ) -> Picture | None:
        """A picture of so many rows; None where it is given up, which is asked every few rows."""
        start, width = time.perf_counter(), camera.width(height)
        camera = camera.to(next(self.scene.parameters()))
        step = rows_at_once(self.scene, max(width, height), self.samples, self.memory)
        bands = []
        with self.scene.held():
            for top in range(0, height, step):
                if given_up():
                    return None
                rays = camera.rays(height, slice(top, top + step))
                seen = march_rays(with_depth(self.field, camera), self.scene.extent, *rays, self.samples)
                bands.append(torch.cat(seen, -1).float().cpu())
        self._learn((time.perf_counter() - start) / (width * height))
        colour, depth, passed = torch.cat(bands).split([3, 1, 1], -1)
        opacity = 1 - passed
        far = torch.where(opacity > 0.5, depth / opacity.clamp(min=0.5), FAR)
        return Picture(to_uint8(2 * (colour + passed * self.shade) - 1).numpy(), far[..., 0].numpy())

    def _learn(self, seconds: float) -> None:
        before = self.seconds_per_ray
        self.seconds_per_ray = seconds if before is None else (before + seconds) / 2


def with_depth(field: Field, camera: BrowserCamera) -> Field:
    """The same with a fourth colour: how far along the camera's axis a point is."""

    def seen(points: Tensor) -> tuple[Tensor, Tensor]:
        density, colour = field(points)
        return density, torch.cat([colour, camera.depth(points)[:, None]], -1)

    return seen
