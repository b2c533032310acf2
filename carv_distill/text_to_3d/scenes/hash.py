"""A hash grid and a small network."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carv_distill.text_to_3d.options import HashOptions, SDSOptions
from carv_distill.text_to_3d.schedules import stage_at

from .scene import Scene, blob


class HashScene(Scene):
    """A multi-resolution hash grid and a small network: the field of text-to-3D papers, in plain torch.

    Where its levels are switched on over steps, how many there are is a part of its state.

    Args:
        resolution: of the finest level; the coarsest's where that is finer.

    Source: Müller et al. 2022 (Instant-NGP), section 3; levels over steps as in Neuralangelo
    (arXiv 2306.03092), section 3.2.
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
        self.active, self.stages = levels, sizes.active_levels
        """How many of the levels there are now, from the coarsest."""
        if self.stages is not None:
            self.active = stage_at(self.stages, 0)
            self.register_buffer("active_levels", torch.tensor(self.active))
            self.register_load_state_dict_post_hook(_take_active)
        # [8, 3]: all of {0, 1}³
        self.register_buffer("corners", torch.cartesian_prod(*[torch.arange(2)] * 3), persistent=False)

    corners: Tensor
    active_levels: Tensor

    def at_step(self, step: int) -> None:
        if self.stages is not None:
            self.active = stage_at(self.stages, step)
            self.active_levels.fill_(self.active)

    @property
    def finest(self) -> float:
        return 2 * self.extent / max(self.sides)

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
        levels = list(zip(self.tables.unbind(), self.sides, strict=True))[: self.active]
        values = [self._look_up(table, unit * side, side) for table, side in levels]
        if missing := (len(self.sides) - len(levels)) * self.tables.shape[-1]:
            values.append(unit.new_zeros(len(points), missing))
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
        values = table.index_select(0, entry.flatten()).view(*entry.shape, table.shape[-1])
        return (weight * values).sum(1)

    def parameter_groups(self, rates: SDSOptions) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "lr": rates.density_lr}]


def _take_active(scene: nn.Module, _: Any) -> None:
    """As many levels as the state that was loaded has."""
    assert isinstance(scene, HashScene)
    scene.active = int(scene.active_levels)
