"""3D Gaussians."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from carv_distill.geometry.camera import Cameras
from carv_distill.text_to_3d.options import GaussianOptions, SDSOptions
from carv_distill.text_to_3d.rendering import (
    ALPHA_MAX,
    TILE,
    Gaussians,
    Lights,
    OccupancyGrid,
    Rendered,
    background_colours,
    rotations,
    splat,
)

from .fog import half_polylogarithm
from .scene import RADIUS, Scene

OPACITY = 0.1
"""That Gaussians start with."""
REACH = 5.0
"""Standard deviations after which a Gaussian ends in the fog, where exp(−½ 5²) is 4e-6."""
POINTS_AT_ONCE, PAIRS_AT_ONCE = 1024, 2**22
"""Of points, and of points with Gaussians."""
PAIR_BYTES, GAUSSIAN_BYTES = 32, 256


class GaussianScene(Scene):
    """3D Gaussians, seen by splatting.

    They start grey and nearly transparent, spread evenly in a ball of radius 0.5, each as wide as half the
    distance to its neighbours. How many there are is what :meth:`replace`, or the state that is loaded, has.
    The cube bounds the mesh; pictures show what left it, too.

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
        self.register_load_state_dict_pre_hook(_take_count)

    @property
    def values(self) -> dict[str, Tensor]:
        """Its parameters by name, without the graph."""
        return {name: p.detach() for name, p in self.named_parameters()}

    def replace(self, values: Mapping[str, Tensor]) -> None:
        """Other Gaussians in the place of these, as many as the values [N, …] of all parameters have."""
        for name in self.values:
            setattr(self, name, nn.Parameter(values[name]))

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
        lights: Lights | None = None,
        occupied: OccupancyGrid | None = None,
    ) -> Rendered:
        """The same by splatting, where `samples` and `rows` mean nothing; see
        :func:`~carv_distill.text_to_3d.rendering.splat`.

        Raises:
            TypeError: there are lights or cells, and Gaussians have neither normals nor points on rays.
        """
        if lights is not None or occupied is not None:
            raise TypeError("Gaussians have neither normals nor points on rays")
        behind = background_colours(background, len(cameras), generator, self.means)
        return splat(self.gaussians, cameras, size, behind, self.backend)

    @property
    def held_bytes(self) -> int:
        n = len(self.means)
        return PAIR_BYTES * self._points_at_once * n + GAUSSIAN_BYTES * n

    @property
    def _points_at_once(self) -> int:
        return max(1, min(POINTS_AT_ONCE, PAIRS_AT_ONCE // len(self.means)))

    @property
    def point_bytes(self) -> int:
        return 32

    def picture_bytes(self, size: int, samples: int) -> tuple[int, int]:
        tiles = math.ceil(size / TILE)
        return 2 * len(self.means) * tiles**2, 0  # which Gaussian reaches which tile

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density and colour of the Gaussians as a fog,

            σ(p) = Σ_i σ_i(p),    σ_i(p) = Li_½(o_i exp(−½ (p − μ_i)ᵀ Σ_i⁻¹ (p − μ_i))) / (√(2π) s̄_i),

        with s̄ the geometric mean of the scales, and colour Σ_i σ_i c_i / σ. Any ray loses as much light to a
        round Gaussian as it does to its splat (see :func:`~.fog.half_polylogarithm`), so that one level of
        density is a surface for Gaussians and fields alike.
        """
        g = self.gaussians
        turn = rotations(g.quaternions)
        # S⁻¹ Rᵀ, whose product with p − μ has the squared norm of the exponent.
        whiten = (turn / g.scales[:, None, :]).mT
        offset = (whiten @ g.means[:, :, None]).squeeze(-1)
        spread = self.log_scales.mean(-1).exp() * math.sqrt(2 * math.pi)
        opacity = g.opacity.clamp(max=ALPHA_MAX)
        reach = REACH * (turn * g.scales[:, None, :]).norm(dim=-1)
        densities, colours = [], []
        for part in points.split(self._points_at_once):
            near = ((g.means > part.amin(0) - reach) & (g.means < part.amax(0) + reach)).all(-1)
            axes = zip(whiten[near].unbind(1), offset[near].unbind(1), strict=True)
            squared = torch.stack([(part @ along.T - place).square() for along, place in axes]).sum(0)
            each = half_polylogarithm(opacity[near] * torch.exp(-0.5 * squared)) / spread[near]
            densities.append(each.sum(-1))
            colours.append(each @ g.colour[near] / densities[-1].clamp(min=1e-12)[:, None])
        return torch.cat(densities), torch.cat(colours)

    def metrics(self) -> dict[str, Tensor]:
        return {"scene/gaussians": torch.tensor(float(len(self.means)))}

    def parameter_groups(self, rates: SDSOptions) -> list[dict[str, Any]]:
        return [
            {"params": [self.means], "lr": rates.position_lr},
            {"params": [self.log_scales], "lr": rates.scale_lr},
            {"params": [self.quaternions], "lr": rates.rotation_lr},
            {"params": [self.opacity_logits], "lr": rates.density_lr},
            {"params": [self.colour_logits], "lr": rates.colour_lr},
        ]


def _in_ball(count: int, radius: float) -> Tensor:
    """Points spread evenly in a ball, [count, 3]: a Sobol sequence, the same for every seed."""
    u = torch.quasirandom.SobolEngine(3).draw(count)
    height, turn = 2 * u[:, 1] - 1, 2 * math.pi * u[:, 2]
    flat = (1 - height.square()).clamp(min=0).sqrt()
    unit = torch.stack([flat * turn.cos(), height, flat * turn.sin()], -1)
    return radius * u[:, :1] ** (1 / 3) * unit


def _take_count(scene: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Makes a scene as large as the state that is about to be loaded."""
    assert isinstance(scene, GaussianScene)
    means = state.get(f"{prefix}means")
    if means is not None and means.ndim == 2 and len(means) != len(scene.means):
        like = scene.values.items()
        scene.replace({name: value.new_empty(len(means), *value.shape[1:]) for name, value in like})
