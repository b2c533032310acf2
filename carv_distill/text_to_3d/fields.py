"""Scenes, and radiance fields among them: points → density and colour."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carv_distill.geometry.camera import Cameras

from .options import HashOptions, SDSOptions
from .rendering import Rendered, march

BLOB = 10.0
RADIUS = 0.5


class Scene(nn.Module):
    """What is where, and how it is seen.

    ``scene(points [n, 3]) → (density [n] per unit length, colour [n, 3] in (0, 1))`` in the cube
    [−extent, extent]³; a mesh is made from it. Pictures come from rays marched through it, unless a scene has
    a renderer of its own.
    """

    def __init__(self, extent: float) -> None:
        super().__init__()
        self.extent = extent

    def render(
        self,
        cameras: Cameras,
        size: int,
        samples: int,
        generator: torch.Generator | None = None,
        background: str = "grey",
    ) -> Rendered:
        """Pictures of `size` × `size` pixels; see :func:`~carv_distill.text_to_3d.rendering.march`.

        Args:
            samples: points on each ray.
            generator: jitters the points and draws random backgrounds.
            background: grey | white | black | random, the last a colour for each picture.
        """
        return march(self, self.extent, cameras, size, samples, generator, background)

    def parameter_groups(self, rates: SDSOptions) -> list[dict[str, Any]]:
        """Parameters and learning rates for an optimiser."""
        raise TypeError(f"{type(self).__name__} does not say how fast it learns")

    def roughness(self) -> Tensor:
        """A scalar that grows with speckle in the density; 0 where a scene has no such measure."""
        return torch.zeros(())


def blob(points: Tensor) -> Tensor:
    """λ (1 − ‖p‖/c), the raw density that a field starts from: an object in the middle, [n].

    Source: DreamFusion (arXiv 2209.14988), appendix A.2.
    """
    return BLOB * (1 - points.norm(dim=-1) / RADIUS)


class VoxelScene(Scene):
    """A dense grid on top of one of a quarter of its resolution, trilinear between the voxels:

        raw = fine + enlarged coarse,    density = softplus(raw_0 + blob(p)),    colour = sigmoid(raw_1:4).

    The coarse grid moves large parts at once; its voxels are 64 times fewer.

    Args:
        resolution: n, fine voxels along one side.
        extent: half the side of the cube.
    """

    def __init__(self, resolution: int, extent: float) -> None:
        super().__init__(extent)
        sides = max(resolution // 4, 2), resolution
        self.density = nn.ParameterList([nn.Parameter(torch.zeros(1, 1, n, n, n)) for n in sides])
        self.colour = nn.ParameterList([nn.Parameter(torch.zeros(1, 3, n, n, n)) for n in sides])

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        grid = torch.cat([_summed(self.density), _summed(self.colour)], 1)
        # grid_sample wants (x, y, z) for the axes (W, H, D)
        place = (points / self.extent).view(1, -1, 1, 1, 3)
        raw = F.grid_sample(grid, place, align_corners=True, padding_mode="border").view(4, -1)
        return F.softplus(raw[0] + blob(points)), raw[1:].T.sigmoid()

    def parameter_groups(self, rates: SDSOptions) -> list[dict[str, Any]]:
        return [
            {"params": list(self.density), "lr": rates.density_lr},
            {"params": list(self.colour), "lr": rates.colour_lr},
        ]

    def roughness(self) -> Tensor:
        """Mean squared difference of neighbouring voxels of the fine density."""
        fine = self.density[1]
        return torch.stack([fine.diff(dim=d).square().mean() for d in (2, 3, 4)]).sum()


class HashScene(Scene):
    """A multi-resolution hash grid and a small network: the field of text-to-3D papers, in plain torch.

    Args:
        resolution: of the finest level; the coarsest's where that is finer.
        extent: half the side of the cube.
        sizes: see :class:`HashOptions`.

    Source: Müller et al. 2022 (Instant-NGP), section 3.
    """

    def __init__(self, resolution: int, extent: float, sizes: HashOptions) -> None:
        super().__init__(extent)
        levels, base = sizes.levels, sizes.base_resolution
        growth = max(resolution / base, 1.0) ** (1 / max(levels - 1, 1))
        self.sides = [round(base * growth**level) for level in range(levels)]
        entries = torch.empty(levels, 2**sizes.log_size, sizes.features)
        self.tables = nn.Parameter(entries.uniform_(-1e-4, 1e-4))
        self.network = nn.Sequential(
            nn.Linear(levels * sizes.features, sizes.width, bias=False),
            nn.ReLU(),
            nn.Linear(sizes.width, 4, bias=False),
        )
        self.register_buffer("corners", _corners(), persistent=False)

    corners: Tensor

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        unit = ((points / self.extent + 1) / 2).clamp(0, 1)
        # Apart at once: a level taken by its index would cost a gradient of the size of all levels.
        levels = zip(self.tables.unbind(), self.sides, strict=True)
        found = [self._look_up(table, unit * side, side) for table, side in levels]
        raw = self.network(torch.cat(found, -1))
        return F.softplus(raw[:, 0] + blob(points)), raw[:, 1:].sigmoid()

    def _look_up(self, table: Tensor, place: Tensor, side: int) -> Tensor:
        """Trilinear between the eight corners' entries, [n, features]; a level that fits has one for each."""
        low = place.floor()
        corner = low.long()[:, None] + self.corners
        share = place[:, None] - low[:, None]
        weight = torch.where(self.corners.bool(), share, 1 - share).prod(-1, keepdim=True)
        x, y, z = corner.unbind(-1)
        corners = side + 2  # a point on the far face has a cell beyond it
        if corners**3 <= len(table):
            entry = x + corners * (y + corners * z)
        else:  # the three primes of the paper's spatial hash
            entry = (x ^ (y * 2_654_435_761) ^ (z * 805_459_861)) % len(table)
        values = table.index_select(0, entry.flatten()).view(*entry.shape, -1)
        return (weight * values).sum(1)

    def parameter_groups(self, rates: SDSOptions) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "lr": rates.density_lr}]


def _summed(grids: Iterable[Tensor]) -> Tensor:
    coarse, fine = grids
    return fine + F.interpolate(coarse, fine.shape[2:], mode="trilinear", align_corners=True)


def _corners() -> Tensor:
    """[8, 3]: all of {0, 1}³."""
    return torch.cartesian_prod(*[torch.arange(2)] * 3)
