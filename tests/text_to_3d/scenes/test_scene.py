"""What every field begins as, and that all of it learns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from carv_distill.text_to_3d.options import HashOptions, SDSOptions
from carv_distill.text_to_3d.scenes import HashScene, Scene, VoxelScene, blob

SCENES = [lambda: VoxelScene(8, 0.8), lambda: HashScene(16, 0.8, HashOptions(levels=3, log_size=8))]


@pytest.mark.parametrize("make", SCENES)
def test_a_new_field_is_a_grey_ball(make: type[Scene]) -> None:
    points = torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0, -0.79, 0]])
    density, colour = make()(points)
    assert torch.allclose(density, F.softplus(blob(points)), atol=1e-3)
    assert density[0] > 9
    assert density[2] < 0.01
    assert torch.allclose(colour, torch.full((3, 3), 0.5), atol=1e-3)


@pytest.mark.parametrize("make", SCENES)
def test_every_parameter_learns(make: type[Scene]) -> None:
    scene = make()
    density, colour = scene(torch.rand(4000, 3) * 1.6 - 0.8)
    (density.sum() + colour.sum()).backward()
    groups = scene.parameter_groups(SDSOptions())
    assert sum(len(g["params"]) for g in groups) == len(list(scene.parameters()))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in scene.parameters())
