"""Fields: what they say at known points, and what moves when they learn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from carv_distill.text_to_3d.fields import HashScene, Scene, VoxelScene, blob
from carv_distill.text_to_3d.options import HashOptions, SDSOptions

SCENES = [lambda: VoxelScene(8, 0.8), lambda: HashScene(16, 0.8, HashOptions(levels=3, log_size=8))]


@pytest.mark.parametrize("make", SCENES)
def test_a_new_field_is_a_grey_ball(make: type[Scene]) -> None:
    points = torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0, -0.79, 0]])
    density, colour = make()(points)
    assert torch.allclose(density, F.softplus(blob(points)), atol=1e-3)
    assert density[0] > 9
    assert density[2] < 0.01
    assert torch.allclose(colour, torch.full((3, 3), 0.5), atol=1e-3)


def test_a_voxel_is_seen_at_its_own_place() -> None:
    """Axes: the grid's last index is x; corners of the cube are voxel centres."""
    scene = VoxelScene(5, 1.0)
    with torch.no_grad():
        scene.colour[1][0, 0, 4, 2, 1] = 3.0  # z = 1, y = 0, x = −0.5: red
    points = torch.tensor([[-0.5, 0.0, 1.0], [-0.25, 0.0, 1.0], [1.0, 0.0, -0.5]])
    _, colour = scene(points)
    assert torch.allclose(colour[:, 0], torch.tensor([3.0, 1.5, 0.0]).sigmoid())
    assert torch.equal(colour[:, 1], torch.full((3,), 0.5))


def test_the_coarse_grid_moves_its_surroundings() -> None:
    scene = VoxelScene(8, 1.0)
    with torch.no_grad():
        scene.density[0] += 1.0
    points = torch.rand(50, 3) * 2 - 1
    assert torch.allclose(scene(points)[0], F.softplus(blob(points) + 1), atol=1e-5)


def test_roughness_is_the_mean_square_of_neighbouring_differences() -> None:
    scene = VoxelScene(4, 1.0)
    assert scene.roughness() == 0
    with torch.no_grad():
        scene.density[1][..., 1::2] = 1.0  # stripes along x: every difference along x is 1
    assert scene.roughness() == 1


@pytest.mark.parametrize("make", SCENES)
def test_every_parameter_learns(make: type[Scene]) -> None:
    scene = make()
    density, colour = scene(torch.rand(4000, 3) * 1.6 - 0.8)
    (density.sum() + colour.sum()).backward()
    groups = scene.parameter_groups(SDSOptions())
    assert sum(len(g["params"]) for g in groups) == len(list(scene.parameters()))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in scene.parameters())


@pytest.mark.parametrize("log_size", [14, 8])
def test_hash_entries_interpolate_between_corners(log_size: int) -> None:
    """With the network replaced by a sum, a field linear in its tables is continuous across a cell's face."""
    scene = HashScene(16, 1.0, HashOptions(levels=1, log_size=log_size))
    torch.nn.init.normal_(scene.tables)
    side = scene.sides[0]
    face = 2 * 5 / side - 1  # x at the boundary of two cells
    points = torch.tensor([[face - 1e-5, 0.1, 0.2], [face + 1e-5, 0.1, 0.2]], dtype=torch.float32)
    found = scene._look_up(scene.tables[0], (points + 1) / 2 * side, side)
    assert torch.allclose(found[0], found[1], atol=1e-2)


def test_a_level_that_fits_has_an_entry_for_each_corner() -> None:
    """(16 + 1)³ corners of a grid of side 16 read 4,913 different entries of 2^14; of 2^12 some share."""
    corners = torch.cartesian_prod(*[torch.arange(17.0)] * 3)
    for log_size, entries in ((14, 17**3), (12, None)):
        scene = HashScene(16, 1.0, HashOptions(levels=1, log_size=log_size, features=1))
        with torch.no_grad():
            scene.tables.copy_(torch.arange(2.0**log_size).view(1, -1, 1))
        found = scene._look_up(scene.tables[0], corners, 16).unique()
        assert len(found) == entries if entries else len(found) < 17**3


def test_the_sizes_of_a_hash_grid_are_those_asked_for() -> None:
    """Instant-NGP's: 16 resolutions from 16 to 2048 that grow by (2048/16)^(1/15), and a network of 64."""
    scene = HashScene(2048, 1.0, HashOptions(levels=16, log_size=10, base_resolution=16, width=64))
    assert (scene.sides[0], scene.sides[1], scene.sides[-1], len(scene.sides)) == (16, 22, 2048, 16)
    assert scene.tables.shape == (16, 2**10, 2)
    assert scene.network[0].weight.shape == (64, 32)
