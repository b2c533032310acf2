"""The renderer against integrals done by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from carv_distill.geometry.camera import Cameras, CameraSampler
from carv_distill.text_to_3d.scenes import Scene, VoxelScene


class Fog(Scene):
    """Uniform density and colour in the whole cube."""

    def __init__(self, density: float) -> None:
        super().__init__(1.0)
        self.density = torch.nn.Parameter(torch.tensor(density))

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return self.density.expand(len(points)), points.new_tensor([0.2, 0.4, 0.9]).expand(len(points), 3)


def straight(distance: float = 3.0, fov: float = 10.0) -> Cameras:
    """One camera on the z axis."""
    one = torch.ones(1)
    return Cameras(0 * one, 0 * one, distance * one, math.radians(fov) * one)


@pytest.mark.parametrize("jitter", [False, True])
def test_fog_absorbs_exponentially(jitter: bool) -> None:
    """Through the cube's middle: opacity 1 − exp(−2 σ); the quadrature is exact for a uniform density."""
    g = torch.Generator().manual_seed(0) if jitter else None
    seen = Fog(0.7).render(straight(fov=0.1), 1, 16, g, "white")
    opacity = 1 - math.exp(-0.7 * 2)
    assert float(seen.opacity) == pytest.approx(opacity, rel=1e-5)
    colour = torch.tensor([0.2, 0.4, 0.9]) * opacity + (1 - opacity)
    assert torch.allclose(seen.image.flatten(), colour, atol=1e-5)


def test_a_ray_beside_the_cube_sees_the_background() -> None:
    seen = Fog(5.0).render(straight(distance=2.0, fov=150.0), 5, 8, background="black")
    assert seen.opacity[0, 0, 0, 0] == 0
    assert torch.equal(seen.image[0, :, 0, 0], torch.zeros(3))
    assert seen.opacity[0, 0, 2, 2] > 0.99


def test_the_picture_stands_as_the_camera_does() -> None:
    """Something on +x and above is seen right and up from the front, left and up from behind."""
    scene = VoxelScene(9, 1.0)
    with torch.no_grad():
        scene.density[1] -= 30.0  # empty
        scene.density[1][0, 0, 4, 6, 6] = 60.0  # z = 0, y = 0.5, x = 0.5
    turn = torch.tensor([0.0, math.pi])
    two = torch.ones(2)
    cameras = Cameras(turn, 0 * two, 3 * two, math.radians(40) * two)
    opacity = scene.render(cameras, 16, 64).opacity[:, 0]
    for picture, right in ((opacity[0], True), (opacity[1], False)):
        row, column = divmod(int(picture.argmax()), 16)
        assert row < 8
        assert (column >= 8) == right


def test_jitter_gives_the_same_picture_on_average() -> None:
    """The mean over 200 jittered renders against 512 points per ray, 4 SE with the quadrature's own error."""
    scene = VoxelScene(8, 0.8)
    torch.manual_seed(0)
    with torch.no_grad():
        for grid in (*scene.density, *scene.colour):
            grid += torch.randn_like(grid)
    cameras = CameraSampler().sample(1, torch.Generator().manual_seed(1))
    fine = scene.render(cameras, 4, 512).image
    g = torch.Generator().manual_seed(2)
    many = torch.stack([scene.render(cameras, 4, 64, g).image for _ in range(200)])
    se = many.std(0) / 200**0.5
    assert ((many.mean(0) - fine).abs() < 4 * se + 2e-3).all()


def test_random_backgrounds_differ_between_pictures() -> None:
    cameras = CameraSampler().sample(2, torch.Generator().manual_seed(1))
    image = Fog(0.0).render(cameras, 2, 4, torch.Generator().manual_seed(0), "random").image
    assert not torch.allclose(image[0], image[1])
    assert torch.allclose(image[0, :, 0, 0], image[0, :, 1, 1])


def test_the_gradient_is_that_of_differences() -> None:
    scene = Fog(0.7).double()
    cameras = straight()
    cameras = Cameras(
        *(t.double() for t in (cameras.azimuth, cameras.elevation, cameras.distance, cameras.fov))
    )

    def total(density: Tensor) -> Tensor:
        with torch.no_grad():
            scene.density.copy_(density)
        return scene.render(cameras, 3, 8).image.sum()

    total(torch.tensor(0.7)).backward()
    h = 1e-6
    difference = (total(torch.tensor(0.7 + h)) - total(torch.tensor(0.7 - h))) / (2 * h)
    assert float(scene.density.grad) == pytest.approx(float(difference), rel=1e-6)
