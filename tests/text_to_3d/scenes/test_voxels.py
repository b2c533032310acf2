"""What a dense grid says at known points."""

from __future__ import annotations

import pytest
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


def test_roughness_has_the_gradient_of_its_formula() -> None:
    scene = VoxelScene(8, 1.0).double()
    with torch.no_grad():
        for p in scene.parameters():
            p.normal_(generator=torch.Generator().manual_seed(0))
    coarse, fine = scene.colour
    whole = fine + F.interpolate(coarse, fine.shape[2:], mode="trilinear", align_corners=True)
    for found, grid in ((scene.roughness(), scene.density[1]), (scene.colour_roughness(), whole)):
        written = sum(grid.diff(dim=d).square().mean() for d in (2, 3, 4))
        assert isinstance(written, torch.Tensor)
        torch.testing.assert_close(found, written, rtol=1e-12, atol=0)
        weights = [p for p in scene.parameters() if p.shape[1] == grid.shape[1]]
        ours, theirs = (torch.autograd.grad(loss, weights, allow_unused=True) for loss in (found, written))
        for our, their in zip(ours, theirs, strict=True):
            assert (our is None) == (their is None)
            if our is not None:
                torch.testing.assert_close(our, their, rtol=1e-10, atol=1e-14)


def test_held_parameters_are_summed_once_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a graph and without one in one block, too, and anew after it."""
    scene, points = VoxelScene(8, 1.0), torch.rand(20, 3) * 2 - 1
    with torch.no_grad():
        for p in scene.parameters():
            p.normal_(generator=torch.Generator().manual_seed(0))

    def loss() -> torch.Tensor:
        density, colour = scene(points)
        return density.sum() + colour.square().sum() + scene.roughness() + scene.colour_roughness()

    free = torch.autograd.grad(loss(), list(scene.parameters()))
    count, interpolate = 0, F.interpolate

    def counted(*args: object, **kwargs: object) -> torch.Tensor:
        nonlocal count
        count += 1
        return interpolate(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "interpolate", counted)
    with scene.held():
        with torch.no_grad():
            without = loss()
        held = loss()
        again = loss()
        assert count == 4
    assert without == held == again
    for ours, theirs in zip(torch.autograd.grad(held, list(scene.parameters())), free, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    with torch.no_grad():
        scene.density[1].add_(1.0)
    assert loss() > held
