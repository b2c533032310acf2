"""Known solids as scenes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from carv_distill.geometry.solids import Solid
from carv_distill.text_to_3d.scenes import Scene

Colours = Callable[[Tensor], Tensor]


class SolidScene(Scene):
    """A solid whose mesh lies at distance 0: its density falls through the surface's level there.

    Args:
        colours: of points, [n, 3] → [n, 3]; None is grey.
    """

    def __init__(self, solid: Solid, colours: Colours | None = None, extent: float = 0.8) -> None:
        super().__init__(extent)
        self.parameter = torch.nn.Parameter(torch.zeros(1))
        self.solid, self.colours = solid, colours

    @property
    def point_bytes(self) -> int:
        return 200

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        level = math.log(2) / (0.2 * self.extent)
        density = level * (1 - self.solid(points) / 0.1).clamp(0, 4)
        return density, torch.full_like(points, 0.5) if self.colours is None else self.colours(points)


def ball_at(centre: tuple[float, float, float], radius: float) -> Solid:
    """A ball anywhere."""

    def distance(p: Tensor) -> Tensor:
        return (p - torch.tensor(centre, dtype=p.dtype, device=p.device)).norm(dim=-1) - radius

    return distance


def union(*solids: Solid) -> Solid:
    """All of them together."""
    return lambda p: torch.stack([solid(p) for solid in solids]).amin(0)


def without(solid: Solid, hole: Solid) -> Solid:
    """The one less the other."""
    return lambda p: torch.maximum(solid(p), -hole(p))


RED, BLUE = (0.9, 0.1, 0.1), (0.1, 0.2, 0.8)


def two_tone(p: Tensor) -> Tensor:
    """Red where x > 0, blue elsewhere."""
    return torch.where(p[:, :1] > 0, torch.tensor(RED), torch.tensor(BLUE)).to(p)
