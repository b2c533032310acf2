"""What a dense grid says at known points."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from carv_distill.text_to_3d.scenes import Scene, VoxelScene, blob


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
        scene.colour[1][:, :2, :, 1::2] = 3.0  # along y, of two of the three colours
    assert scene.roughness() == 1
    assert scene.colour_roughness() == 6
    with torch.no_grad():
        scene.colour[0] += 5.0  # the coarse grid counts, and is even
    torch.testing.assert_close(scene.colour_roughness(), torch.tensor(6.0))
    assert Scene.colour_roughness(scene) == Scene.roughness(scene) == 0
