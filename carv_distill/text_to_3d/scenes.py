"""Scenes: points → density and colour, and pictures of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carv_distill.geometry.camera import Cameras

from .options import GaussianOptions, HashOptions, SceneOptions, SDSOptions
from .rendering import (
    ALPHA_MAX,
    MARCH_BYTES,
    TILE,
    Gaussians,
    Rendered,
    background_colours,
    march,
    rotations,
    splat,
)

BLOB = 10.0
RADIUS = 0.5
OPACITY = 0.1
"""That Gaussians start with."""
REACH = 5.0
"""Standard deviations after which a Gaussian ends in the fog: at 4e-6 of its density."""
POINTS_AT_ONCE = 1024


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
        rows: int | None = None,
    ) -> Rendered:
        """Pictures of `size` × `size` pixels, by `samples` points on each ray; see
        :func:`~carv_distill.text_to_3d.rendering.march`."""
        return march(self, self.extent, cameras, size, samples, generator, background, rows)

    @property
    def held_bytes(self) -> int:
        """That a call without a graph holds in float32, whatever the points."""
        return 0

    @property
    def point_bytes(self) -> int:
        """The most that it holds of each point besides."""
        raise TypeError(f"{type(self).__name__} does not say what memory it takes")

    def picture_bytes(self, size: int, samples: int) -> tuple[int, int]:
        """The most that :meth:`render` of one camera holds without a graph in float32: of all of the picture
        and of each row that is rendered at once."""
        during, after = MARCH_BYTES
        return self.held_bytes, size * samples * max(during + self.point_bytes, after)

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
    """

    def __init__(self, resolution: int, extent: float) -> None:
        super().__init__(extent)
        sides = max(resolution // 4, 2), resolution
        self.density = nn.ParameterList([nn.Parameter(torch.zeros(1, 1, n, n, n)) for n in sides])
        self.colour = nn.ParameterList([nn.Parameter(torch.zeros(1, 3, n, n, n)) for n in sides])

    @property
    def held_bytes(self) -> int:
        return 32 * self.density[1].numel()  # the four channels, before and after they are one grid

    @property
    def point_bytes(self) -> int:
        return 52

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

    Source: Müller et al. 2022 (Instant-NGP), section 3.
    """

    def __init__(self, resolution: int, extent: float, sizes: HashOptions) -> None:
        super().__init__(extent)
        levels, base, self.width = sizes.levels, sizes.base_resolution, sizes.width
        growth = max(resolution / base, 1.0) ** (1 / max(levels - 1, 1))
        self.sides = [round(base * growth**level) for level in range(levels)]
        entries = torch.empty(levels, 2**sizes.log_size, sizes.features)
        self.tables = nn.Parameter(entries.uniform_(-1e-4, 1e-4))
        self.network = nn.Sequential(
            nn.Linear(levels * sizes.features, sizes.width, bias=False),
            nn.ReLU(),
            nn.Linear(sizes.width, 4, bias=False),
        )
        # [8, 3]: all of {0, 1}³
        self.register_buffer("corners", torch.cartesian_prod(*[torch.arange(2)] * 3), persistent=False)

    corners: Tensor

    @property
    def point_bytes(self) -> int:
        levels, _, features = self.tables.shape
        inputs, width = levels * features, self.width
        # Eight corners of the last level with all values before it, or the network's layers.
        look_up = 48 + 4 * inputs + max(416, 288 + 64 * features)
        network = 12 + 8 * inputs + 8 * width
        return max(look_up, network)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        unit = ((points / self.extent + 1) / 2).clamp(0, 1)
        # Apart at once: a level taken by its index would cost a gradient of the size of all levels.
        levels = zip(self.tables.unbind(), self.sides, strict=True)
        values = [self._look_up(table, unit * side, side) for table, side in levels]
        raw = self.network(torch.cat(values, -1))
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


class GaussianScene(Scene):
    """A fixed number of 3D Gaussians, seen by splatting.

    They start grey and nearly transparent, spread evenly in a ball of radius 0.5, each as wide as half the
    distance to its neighbours. None is split, cloned or pruned on the way: `count` is what there is. The cube
    bounds the mesh; pictures show what left it, too.

    Source: Kerbl et al. 2023 (3D Gaussian splatting), sections 4 and 5; the ball as in DreamGaussian
    (arXiv 2309.16653), section 3.1.
    """

    def __init__(self, extent: float, options: GaussianOptions) -> None:
        super().__init__(extent)
        count, self.backend = options.count, options.backend
        spacing = RADIUS * (4 / 3 * math.pi / count) ** (1 / 3)
        self.means = nn.Parameter(_in_ball(count, RADIUS))
        self.log_scales = nn.Parameter(torch.full((count, 3), math.log(spacing / 2)))
        self.quaternions = nn.Parameter(torch.tensor([1.0, 0, 0, 0]).repeat(count, 1))
        self.opacity_logits = nn.Parameter(torch.full((count,), math.log(OPACITY / (1 - OPACITY))))
        self.colour_logits = nn.Parameter(torch.zeros(count, 3))

    @property
    def gaussians(self) -> Gaussians:
        """As the renderer takes them, with the graph."""
        return Gaussians(
            self.means,
            self.quaternions,
            self.log_scales.exp(),
            self.opacity_logits.sigmoid(),
            self.colour_logits.sigmoid(),
        )

    def render(
        self,
        cameras: Cameras,
        size: int,
        samples: int,
        generator: torch.Generator | None = None,
        background: str = "grey",
        rows: int | None = None,
    ) -> Rendered:
        """The same by splatting, where `samples` and `rows` mean nothing; see
        :func:`~carv_distill.text_to_3d.rendering.splat`."""
        behind = background_colours(background, len(cameras), generator, self.means)
        return splat(self.gaussians, cameras, size, behind, self.backend)

    @property
    def point_bytes(self) -> int:
        return 32

    def picture_bytes(self, size: int, samples: int) -> tuple[int, int]:
        tiles = math.ceil(size / TILE)
        return 2 * len(self.means) * tiles**2, 0  # which Gaussian reaches which tile

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density and colour of the Gaussians as a fog,

            σ(p) = Σ_i σ_i(p),    σ_i(p) = −ln(1 − o_i) / (√(2π) s̄_i) · exp(−½ (p − μ_i)ᵀ Σ_i⁻¹ (p − μ_i)),

        with s̄ the geometric mean of the scales, and colour Σ_i σ_i c_i / σ. A ray through the middle of a
        round Gaussian loses the share o of its light, as it does to its splat, so that one level of density
        is a surface for Gaussians and fields alike.
        """
        g = self.gaussians
        turn = rotations(g.quaternions)
        # S⁻¹ Rᵀ, whose product with p − μ has the squared norm of the exponent.
        whiten = (turn / g.scales[:, None, :]).mT
        offset = (whiten @ g.means[:, :, None]).squeeze(-1)
        spread = self.log_scales.mean(-1).exp() * math.sqrt(2 * math.pi)
        peak = -torch.log1p(-g.opacity.clamp(max=ALPHA_MAX)) / spread
        reach = REACH * (turn * g.scales[:, None, :]).norm(dim=-1)
        densities, colours = [], []
        for part in points.split(POINTS_AT_ONCE):
            near = ((g.means > part.amin(0) - reach) & (g.means < part.amax(0) + reach)).all(-1)
            axes = zip(whiten[near].unbind(1), offset[near].unbind(1), strict=True)
            squared = torch.stack([(part @ along.T - place).square() for along, place in axes]).sum(0)
            each = peak[near] * torch.exp(-0.5 * squared)
            densities.append(each.sum(-1))
            colours.append(each @ g.colour[near] / densities[-1].clamp(min=1e-12)[:, None])
        return torch.cat(densities), torch.cat(colours)

    def parameter_groups(self, rates: SDSOptions) -> list[dict[str, Any]]:
        return [
            {"params": [self.means], "lr": rates.position_lr},
            {"params": [self.log_scales], "lr": rates.scale_lr},
            {"params": [self.quaternions], "lr": rates.rotation_lr},
            {"params": [self.opacity_logits], "lr": rates.density_lr},
            {"params": [self.colour_logits], "lr": rates.colour_lr},
        ]


def build_scene(options: SceneOptions) -> Scene:
    """An untrained scene of the configured kind."""
    if options.kind == "hash":
        return HashScene(options.resolution, options.extent, options.hash)
    if options.kind == "gaussians":
        return GaussianScene(options.extent, options.gaussians)
    return VoxelScene(options.resolution, options.extent)


def _summed(grids: Iterable[Tensor]) -> Tensor:
    coarse, fine = grids
    return fine + F.interpolate(coarse, fine.shape[2:], mode="trilinear", align_corners=True)


def _in_ball(count: int, radius: float) -> Tensor:
    """Points spread evenly in a ball, [count, 3]: a Sobol sequence, the same for every seed."""
    u = torch.quasirandom.SobolEngine(3).draw(count)
    height, turn = 2 * u[:, 1] - 1, 2 * math.pi * u[:, 2]
    flat = (1 - height.square()).clamp(min=0).sqrt()
    unit = torch.stack([flat * turn.cos(), height, flat * turn.sin()], -1)
    return radius * u[:, :1] ** (1 / 3) * unit
