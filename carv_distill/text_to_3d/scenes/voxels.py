"""A dense grid of density and colour."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from carv_distill.text_to_3d.options import SDSOptions

from .scene import Scene, blob


class VoxelScene(Scene):
    """A dense grid on top of one of a quarter of its resolution, trilinear between the voxels:

        raw = fine + enlarged coarse,    density = softplus(raw_0 + blob(p)),    colour = sigmoid(raw_1:4).

    The coarse grid moves large parts at once; its voxels are 64 times fewer.

    Args:
        resolution: n, fine voxels along one side.
    """

    def __init__(self, resolution: int, extent: float) -> None:
        super().__init__(extent)
        sides = max(resolution // 4, 2), resolution
        self.density = nn.ParameterList([nn.Parameter(torch.zeros(1, 1, n, n, n)) for n in sides])
        self.colour = nn.ParameterList([nn.Parameter(torch.zeros(1, 3, n, n, n)) for n in sides])
        self._made: dict[tuple[str, bool], Tensor] | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        self._made = {}
        try:
            yield
        finally:
            self._made = None

    def _once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What is made of the parameters alone; while they are held, once with a graph and once without."""
        if self._made is None:
            return make()
        key = name, torch.is_grad_enabled()
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _densities(self) -> Tensor:
        return self._once("density", lambda: _summed(self.density))

    def _colours(self) -> Tensor:
        return self._once("colour", lambda: _summed(self.colour))

    @property
    def held_bytes(self) -> int:
        return 32 * self.density[1].numel()  # the four channels, before and after they are one grid

    @property
    def point_bytes(self) -> int:
        return 52

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        grid = self._once("both", lambda: torch.cat([self._densities(), self._colours()], 1))
        place = self._place(points)
        raw = _sampled(grid, place)
        return F.softplus(raw[0] + blob(points)), raw[1:].T.sigmoid()

    def density_at(self, points: Tensor) -> Tensor:
        raw = _sampled(self._densities(), self._place(points))
        return F.softplus(raw[0] + blob(points))

    @property
    def finest(self) -> float:
        return 2 * self.extent / (self.density[1].shape[-1] - 1)

    @property
    def normal_step(self) -> float:
        return self.finest / 2  # half a voxel: normals then have no edges

    def _place(self, points: Tensor) -> Tensor:
        """In a grid, [1, n, 1, 1, 3]: grid_sample wants (x, y, z) for the axes (W, H, D)."""
        return (points / self.extent).view(1, -1, 1, 1, 3)

    def parameter_groups(self, rates: SDSOptions) -> list[dict[str, Any]]:
        return [
            {"params": list(self.density), "lr": rates.density_lr},
            {"params": list(self.colour), "lr": rates.colour_lr},
        ]

    def roughness(self) -> Tensor:
        """Mean squared difference of neighbouring voxels of the fine density, summed over the three axes."""
        return _differences(self.density[1])

    def colour_roughness(self) -> Tensor:
        """The same of the colour's logits, fine and coarse together."""
        return _differences(self._colours())


def _summed(grids: Iterable[Tensor]) -> Tensor:
    coarse, fine = grids
    return fine + F.interpolate(coarse, fine.shape[2:], mode="trilinear", align_corners=True)


def _differences(grid: Tensor) -> Tensor:
    """Σ_d mean (D_d v)² over the axes of space, D_d v the differences of neighbours along d."""
    value: Tensor = _Differences.apply(grid)
    return value


class _Differences(torch.autograd.Function):
    """With its gradient 2 Σ_d D_dᵀ D_d v / n_d made beside it: a third of the time that autograd takes, which
    fills a grid for each slice."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor) -> Tensor:
        total, gradient = grid.new_zeros(()), torch.zeros_like(grid)
        for d in range(2, grid.ndim):
            n = grid.shape[d] - 1
            difference = (grid.narrow(d, 1, n) - grid.narrow(d, 0, n)).contiguous()
            flat = difference.view(-1)
            total += flat.dot(flat) / flat.numel()
            difference *= 2 / flat.numel()
            gradient.narrow(d, 1, n).add_(difference)
            gradient.narrow(d, 0, n).sub_(difference)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (gradient,) = ctx.saved_tensors
        return gradient * slope


def _sampled(grid: Tensor, place: Tensor) -> Tensor:
    """A grid [1, C, n, n, n] at places [1, N, 1, 1, 3], [C, N]."""
    found = F.grid_sample(grid, place, align_corners=True, padding_mode="border")
    return found.view(grid.shape[1], -1)
