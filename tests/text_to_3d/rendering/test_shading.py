"""Normals, lights and orientation against formulas, in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from carv_distill.geometry.camera import Cameras
from carv_distill.text_to_3d.options import HashOptions
from carv_distill.text_to_3d.rendering import Lights, albedo, draw_lights, march, normals
from carv_distill.text_to_3d.rendering_options import ShadingOptions
from carv_distill.text_to_3d.scenes import HashScene, Scene, VoxelScene
from tests.helpers.analytic_fields import Ball, cameras, rough

LIT = ShadingOptions(textureless=0.375, lambertian=0.375)


def test_normals_of_a_ball_point_outwards() -> None:
    points = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = 0.5 * F.normalize(points, dim=-1) * torch.linspace(0.8, 1.2, 500, dtype=torch.float64)[:, None]
    found = Ball().normals(points)
    wanted = F.normalize(points, dim=-1)
    assert (found - wanted).norm(dim=-1).max() < 4e-3  # the differences' own error, of the order h²
    finer = normals(Ball().density_at, points, 1e-4)
    assert (finer - wanted).norm(dim=-1).max() < 1e-5


@pytest.mark.parametrize("width", [0.02, 0.1])
def test_differences_are_exact_for_a_quadratic(width: float) -> None:
    """σ = 5 − ‖p‖²/w: ∇σ = −2 p/w whatever the step."""
    points = torch.rand(50, 3, dtype=torch.float64) + 0.1
    slope = 2 * points / width
    wanted = slope / (slope.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    assert torch.allclose(normals(lambda p: 5 - p.square().sum(-1) / width, points, 0.05), wanted, rtol=1e-10)


def test_what_has_no_slope_has_no_normal_and_a_finite_gradient() -> None:
    level = torch.tensor(2.0, requires_grad=True)
    found = normals(lambda p: level.expand(len(p)), torch.rand(9, 3), 0.01)
    found.sum().backward()
    assert found.abs().max() == 0
    assert level.grad is not None
    assert level.grad.isfinite()


@pytest.mark.parametrize(
    "make", [lambda: VoxelScene(6, 0.8), lambda: HashScene(8, 0.8, HashOptions(2, 8, 2, 4))]
)
def test_normals_are_those_of_the_density_by_autograd(make: type[Scene]) -> None:
    """Where a cell's density is smooth: of a step far below a cell, at points away from its sides."""
    scene = rough(make())
    points = 0.2 * torch.randn(64, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    points.requires_grad_()
    (slope,) = torch.autograd.grad(scene(points)[0].sum(), points)
    wanted = -slope / (slope.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    found = normals(scene.density_at, points.detach(), 1e-6)
    assert torch.allclose(scene.density_at(points), scene(points)[0], rtol=1e-12)
    assert ((found - wanted).norm(dim=-1) < 1e-5).double().mean() > 0.95


@pytest.mark.parametrize("make", [lambda: VoxelScene(8, 0.8), lambda: HashScene(16, 0.8, HashOptions(3, 8))])
def test_normals_are_in_full_precision_under_autocast(make: type[Scene]) -> None:
    """Differences of bfloat16 would be off by a tenth and more."""
    scene = rough(make()).float()
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    wanted, exact = scene.normals(points), scene(points)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = scene.normals(points)
        assert torch.equal(scene(points)[0], exact) is isinstance(scene, VoxelScene)
    assert torch.equal(found, wanted)


def test_normals_of_voxels_have_no_jumps() -> None:
    """Half a voxel to each side, along a line through several cells; by a small step they jump."""
    scene = rough(VoxelScene(8, 0.8))
    line = (
        torch.linspace(-0.3, 0.3, 4001, dtype=torch.float64)[:, None] * torch.tensor([[1, 0.7, 0.4]]).double()
    )
    with torch.no_grad():
        jump, small = (
            normals(scene.density_at, line, h).diff(dim=0).norm(dim=-1).max()
            for h in (scene.normal_step, 1e-5)
        )
    assert jump < 0.02
    assert small > 0.2


def test_light_at_the_camera_gives_n_times_v() -> None:
    """One opaque ball, ambient 0: a textureless pixel is n · v at the point that is seen. The light ends
    1.4e-3 outside of its radius, at 0.5."""
    camera = cameras()
    one = torch.ones(1, dtype=torch.float64)
    at_camera = Lights(camera.position, 0 * one, one, 0 * one)
    seen = march(
        Ball(4e3, 0.4986, 1e-3),
        0.8,
        camera,
        24,
        1000,
        None,
        "black",
        None,
        at_camera,
        Ball(1, 0.5, 0.05).normals,
    )
    origins, directions = camera.rays(24)
    along = -(origins * directions).sum(-1)
    under = 0.25 - (origins.square().sum(-1) - along.square())
    hit = under > 0.01
    points = origins + (along - under.clamp(min=0).sqrt())[..., None] * directions
    wanted = -(F.normalize(points, dim=-1) * directions).sum(-1)
    assert hit.sum() > 60
    assert (seen.image[:, 0][hit] - wanted[hit]).abs().max() < 0.02
    assert torch.equal(seen.image[:, 0], seen.image[:, 2])


@pytest.mark.parametrize(("texture", "ambient"), [(1.0, 0.1), (0.0, 0.1), (1.0, 0.7)])
def test_a_lit_picture_is_its_formula(texture: float, ambient: float) -> None:
    """Σ_i w_i (texture · c_i + 1 − texture) (a + (1 − a) max(n_i · l_i, 0)), written out ray by ray."""
    scene, camera, size, samples = rough(VoxelScene(6, 0.8)), cameras(), 5, 7
    one = torch.ones(1, dtype=torch.float64)
    place = torch.tensor([[0.5, 0.9, 0.3]], dtype=torch.float64)
    lights = Lights(place, ambient * one, (1 - ambient) * one, texture * one)
    found = scene.render(camera, size, samples, background="black", lights=lights)
    origins, directions = (rays.view(-1, 3) for rays in camera.rays(size))
    image, facing = [], []
    for o, d in zip(origins, directions, strict=True):
        ends = torch.stack([(-0.8 - o) / d, (0.8 - o) / d])
        near, far = ends.amin(0).max().clamp(min=0), ends.amax(0).min()
        step, light = (far - near).clamp(min=0) / samples, 1.0
        colour, away = torch.zeros(3, dtype=torch.float64), 0.0
        for i in range(samples):
            p = o + (near + (i + 0.5) * step) * d
            (density,), (c,) = scene(p[None])
            n, to_light = scene.normals(p[None])[0], F.normalize(place[0] - p, dim=0)
            weight = light * (1 - torch.exp(-density * step))
            shade = ambient + (1 - ambient) * max(float(n @ to_light), 0.0)
            colour = colour + weight * shade * (c if texture else torch.ones(3))
            away = away + float(weight) * max(float(n @ d), 0.0) ** 2
            light = light * torch.exp(-density * step)
        image.append(colour)
        facing.append(away)
    assert torch.allclose(found.image[0].flatten(1).T, torch.stack(image), rtol=1e-10)
    assert found.orientation is not None
    assert torch.allclose(found.orientation.flatten(), torch.tensor(facing).double(), rtol=1e-10)
    assert found.orientation.max() > 0.01


@pytest.mark.parametrize("texture", [0.0, 1.0])
def test_the_gradient_of_a_lit_picture_is_that_of_differences(texture: float) -> None:
    scene, camera = rough(VoxelScene(4, 0.8)), cameras(2)
    lights = draw_lights(
        ShadingOptions(lambertian=texture, textureless=1 - texture), camera, torch.Generator()
    )
    assert lights is not None
    weights = torch.rand(2, 3, 4, 4, dtype=torch.float64)

    def value() -> Tensor:
        return (weights * scene.render(camera, 4, 9, lights=lights).image).sum()

    value().backward()
    for grid in (*scene.density, *scene.colour):
        index, h = int(grid.grad.abs().argmax()), 1e-6
        with torch.no_grad():
            flat, values = grid.view(-1), []
            for shift in (h, -2 * h):
                flat[index] += shift
                values.append(float(value()))
            flat[index] += h
        difference = (values[0] - values[1]) / (2 * h)
        assert float(grid.grad.view(-1)[index]) == pytest.approx(difference, rel=1e-6, abs=1e-9)
    assert (float(scene.colour[1].grad.abs().max()) > 0) is (texture == 1)


def test_orientation_of_a_ball_and_of_what_is_hollow() -> None:
    """Of a ball what is seen faces the camera; with the slope turned around, all of it faces away: at the
    middle n = d, and the loss is the opacity."""
    camera = Cameras(*(torch.tensor([v], dtype=torch.float64) for v in (0.0, 0.0, 2.0, 0.02)))
    ball = Ball(60.0, 0.5, 0.05)
    seen = march(ball, 0.8, camera, 1, 4000, lights=albedo(camera), normals=ball.normals)
    turned = march(ball, 0.8, camera, 1, 4000, lights=albedo(camera), normals=lambda p: -ball.normals(p))
    assert seen.orientation is not None
    assert turned.orientation is not None
    assert float(seen.orientation) < 1e-6
    # 1 − T up to the middle of the ball, as its far side would face the camera
    assert float(turned.orientation) == pytest.approx(1 - math.exp(-60 * 0.5), rel=1e-2)


def test_orientation_of_a_slanted_fog_by_hand() -> None:
    """σ = 2 + a · p has one normal everywhere, −a/‖a‖: the loss of a pixel is opacity · max(0, n · d)²; its
    gradient goes through normals alone."""
    slope = torch.tensor([0.3, -0.2, -0.9], dtype=torch.float64, requires_grad=True)
    level = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def density(points: Tensor) -> Tensor:
        return level + points @ slope

    def field(points: Tensor) -> tuple[Tensor, Tensor]:
        return density(points), torch.ones_like(points)

    camera = cameras(3)
    seen = march(
        field, 0.8, camera, 6, 20, lights=albedo(camera), normals=lambda p: normals(density, p, 0.01)
    )
    away = (camera.rays(6)[1] @ (-slope / (slope.square().sum() + 1e-6).sqrt())).clamp(min=0)
    wanted = seen.opacity[:, 0].detach() * away.square()
    assert seen.orientation is not None
    assert wanted.max() > 0.1
    assert torch.allclose(seen.orientation[:, 0], wanted, rtol=1e-9)
    found = torch.autograd.grad(seen.orientation.sum(), (slope, level), allow_unused=True, retain_graph=True)
    (expected,) = torch.autograd.grad(wanted.sum(), slope)
    assert torch.allclose(found[0], expected, rtol=1e-6)
    assert float(found[1].abs()) < 1e-9


def test_albedo_with_normals_is_the_picture_without() -> None:
    scene, camera = rough(VoxelScene(6, 0.8)), cameras(2)
    plain, known = scene.render(camera, 6, 8), scene.render(camera, 6, 8, lights=albedo(camera))
    assert torch.equal(plain.image, known.image)
    assert torch.equal(plain.opacity, known.opacity)
    assert plain.orientation is None
    apart = scene.render(camera, 6, 8, rows=2, lights=albedo(camera))
    assert torch.allclose(apart.orientation, known.orientation, rtol=1e-12)  # type: ignore[arg-type]


def test_lights_come_by_their_shares_and_stand_where_they_are_drawn() -> None:
    """4,000 renders: shares within 4 SE; r uniform in its range; the direction's mean is the camera's."""
    one = torch.ones(4000, dtype=torch.float64)
    camera = Cameras(0.5 * one, 0.3 * one, 1.7 * one, one)
    lights = draw_lights(LIT, camera, torch.Generator().manual_seed(0))
    assert lights is not None
    lit, white = lights.diffuse > 0, lights.texture == 0
    se = math.sqrt(0.375 * 0.625 / 4000)
    assert abs(float(white.double().mean()) - 0.375) < 4 * se
    assert abs(float((lit & ~white).double().mean()) - 0.375) < 4 * se
    assert not (white & ~lit).any()
    assert torch.equal(lights.ambient[~lit], one[~lit])
    assert torch.allclose(lights.ambient[lit], 0.1 * one[lit])
    assert torch.allclose(lights.ambient + lights.diffuse, one)
    far = lights.place.norm(dim=1)
    assert 0.8 <= far.min() < far.max() <= 1.5
    assert abs(float(far.mean()) - 1.15) < 4 * 0.7 / math.sqrt(12 * 4000)
    side = torch.linalg.cross(lights.place / far[:, None], F.normalize(camera.position, dim=-1))
    assert (side.mean(0).abs() < 4 * side.std(0) / math.sqrt(4000)).all()
    fixed = draw_lights(
        ShadingOptions(lambertian=1.0, noise=0.0, distance=[1.7, 1.7]), camera, torch.Generator()
    )
    assert fixed is not None
    assert torch.allclose(fixed.place, camera.position)


def test_as_many_numbers_are_drawn_for_albedo() -> None:
    after = []
    for share in (1e-9, 1.0):
        g = torch.Generator().manual_seed(5)
        lights = draw_lights(ShadingOptions(lambertian=share), cameras(2), g)
        assert (lights is None) is (share < 1)
        after.append(torch.rand(3, generator=g))
    assert torch.equal(*after)
