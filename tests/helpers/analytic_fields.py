"""Fields whose normals are known, and cameras in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from carv_distill.geometry.camera import Cameras, CameraSampler
from carv_distill.text_to_3d.scenes import Scene


class Ball(Scene):
    """σ = s · sigmoid((r − ‖p‖) / w): dense inside, thin outside; its normal is p/‖p‖."""

    def __init__(self, scale: float = 40.0, radius: float = 0.5, width: float = 0.03) -> None:
        super().__init__(0.8)
        self.scale = torch.nn.Parameter(torch.tensor(scale, dtype=torch.float64))
        self.radius = torch.nn.Parameter(torch.tensor(radius, dtype=torch.float64))
        self.width = width

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        density = self.scale * ((self.radius - points.norm(dim=-1)) / self.width).sigmoid()
        return density, points.new_tensor([0.9, 0.5, 0.1]).expand(len(points), 3)


def cameras(count: int = 1, seed: int = 0) -> Cameras:
    return CameraSampler().sample(count, torch.Generator().manual_seed(seed), torch.float64)


def rough(scene: Scene, seed: int = 0) -> Scene:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in scene.double().parameters():
            p += 0.5 * torch.randn(p.shape, generator=g, dtype=p.dtype)
    return scene
