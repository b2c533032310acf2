"""Empty space, in which a field is not asked."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carv_distill.text_to_3d.rendering_options import OccupancyOptions

from .marching import Field, Normals

AT_ONCE = 2**16
"""Points of an update that are asked for together."""
UNSEEN = 1 / 510
"""Of the light along a ray, what half a level of a byte is."""
CELL_BYTES = 16
"""Of a cell while a finished field is looked into in float32, at most."""


class OccupancyGrid(nn.Module):
    """Cells of the cube [−extent, extent]³ that something is in, by greatest densities that fade,

        v ← max(decay · v, σ(p)),    p at random in the cell.

    A cell is empty where v of it and of the 26 around it are at most `threshold`; a field is 0 there without
    being asked. Where σ itself is at most that in empty cells, a ray of length L through them loses no more
    than the share 1 − exp(−threshold · L) of its light to it. At first all cells are occupied.

    Source: Instant-NGP (arXiv 2201.05989), appendix C; nerfacc's OccGridEstimator, but for the cells around,
    which make room for what grows and for peaks between samples.
    """

    density: Tensor
    """v, [n, n, n], by x, y and z."""
    occupied: Tensor

    def __init__(self, options: OccupancyOptions, extent: float) -> None:
        super().__init__()
        self.extent, self.decay, self.threshold = extent, options.decay, options.threshold
        n = options.resolution
        self.register_buffer("density", torch.zeros(n, n, n))
        self.register_buffer("occupied", torch.ones(n, n, n, dtype=torch.bool))

    @torch.no_grad()
    def update(self, density_at: Callable[[Tensor], Tensor], g: torch.Generator) -> None:
        """Looks once into every cell.

        Args:
            density_at: points [n, 3] → [n].
        """
        n, like = len(self.density), self.density
        line = torch.arange(n, device=like.device, dtype=like.dtype)
        cells = torch.cartesian_prod(line, line, line)
        inside = torch.rand(cells.shape, generator=g, device=like.device, dtype=like.dtype)
        points = (2 * (cells + inside) / n - 1) * self.extent
        seen = torch.cat([density_at(part) for part in points.split(AT_ONCE)]).to(like).view_as(like)
        self._take(torch.maximum(self.decay * self.density, seen))

    @classmethod
    @torch.no_grad()
    def of_finished(
        cls,
        density_at: Callable[[Tensor], Tensor],
        extent: float,
        cells: int,
        like: Tensor,
        at_once: int = AT_ONCE,
    ) -> OccupancyGrid:
        """Of a field that does not change any more: the greatest density at eight places of each cell, two
        along each side, so that a lattice of 2 n points covers the cube, and a threshold so low that no pixel
        loses more than half a level of a byte to what lies in empty cells,

            1 − exp(−threshold · L) = 1/510,    L = 2 √3 extent, the cube's diagonal.

        That holds where all that is denser than the threshold is as thick as the lattice's step, extent / n,
        along some axis, or less than a cell away from what is: a wall that is thinner may lie between two
        layers of the lattice, and is lost then.

        Args:
            density_at: points [m, 3] → [m].
            cells: n, along one side.
            like: its device and dtype.
            at_once: points that are asked for together.
        """
        threshold = -math.log1p(-UNSEEN) / (2 * math.sqrt(3) * extent)
        grid = cls(OccupancyOptions(cells, threshold=threshold), extent).to(like)
        line = (torch.arange(2 * cells, device=like.device, dtype=like.dtype) + 0.5) / cells - 1
        slabs = []
        for pair in line.split(2):  # the points of one layer of cells at a time
            points = torch.cartesian_prod(pair, line, line) * extent
            seen = torch.cat([density_at(part) for part in points.split(at_once)])
            slabs.append(F.max_pool3d(seen.view(1, 2, 2 * cells, 2 * cells), 2)[0])
        grid._take(torch.cat(slabs))
        return grid

    def _take(self, density: Tensor) -> None:
        """Densities of the cells, [n, n, n], and with them which are occupied."""
        self.density.copy_(density)
        around = F.max_pool3d(self.density[None], 3, stride=1, padding=1)[0]
        self.occupied.copy_(around > self.threshold)

    def at(self, points: Tensor) -> Tensor:
        """Whether points [n, 3] are in occupied cells, [n]."""
        n = len(self.occupied)
        x, y, z = ((points / self.extent + 1) / 2 * n).long().clamp(0, n - 1).unbind(-1)
        return self.occupied.view(-1)[(x * n + y) * n + z]

    def field(self, field: Field) -> Field:
        """The same that has neither density nor colour in empty cells, where it is not asked."""

        def within(points: Tensor) -> tuple[Tensor, Tensor]:
            where = self.at(points).nonzero()[:, 0]
            density, colour = field(points[where])
            return _spread(density, where, points), _spread(colour, where, points)

        return within

    def normals(self, normals: Normals) -> Normals:
        """The same of normals."""

        def within(points: Tensor) -> Tensor:
            where = self.at(points).nonzero()[:, 0]
            return _spread(normals(points[where]), where, points)

        return within


def _spread(values: Tensor, where: Tensor, points: Tensor) -> Tensor:
    """Values of some points among zeros for the others."""
    return values.new_zeros(len(points), *values.shape[1:]).index_copy(0, where, values)
