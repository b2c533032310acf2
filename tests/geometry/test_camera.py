"""Where cameras stand and what they see."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from carv_distill.carv import stream
from carv_distill.geometry.camera import SAMPLINGS, VIEWS, Cameras, CameraSampler

F64 = torch.float64


def cameras(azimuth: float, elevation: float = 0.0, distance: float = 2.0, fov: float = 60.0) -> Cameras:
    values = (math.radians(azimuth), math.radians(elevation), distance, math.radians(fov))
    return Cameras(*(torch.tensor([v], dtype=F64) for v in values))


@pytest.mark.parametrize(
    ("azimuth", "elevation", "position"),
    [
        (0, 0, (0, 0, 2)),
        (90, 0, (2, 0, 0)),
        (180, 0, (0, 0, -2)),
        (0, 90, (0, 2, 0)),
        (90, 30, (3**0.5, 1, 0)),
    ],
)
def test_positions(azimuth: float, elevation: float, position: tuple[float, ...]) -> None:
    found = cameras(azimuth, elevation).position[0]
    torch.testing.assert_close(found, torch.tensor(position, dtype=F64), rtol=0, atol=1e-12)


def test_rays_by_hand() -> None:
    """From +z with 90°: the middle looks along −z, the right column towards +x, the top row towards +y."""
    origins, directions = cameras(0, fov=90).rays(3)
    assert origins.shape == directions.shape == (1, 3, 3, 3)
    torch.testing.assert_close(directions[0, 1, 1], torch.tensor([0.0, 0.0, -1.0], dtype=F64))
    right = torch.tensor([2 / 3, 0.0, -1.0], dtype=F64)
    torch.testing.assert_close(directions[0, 1, 2], right / right.norm())
    assert directions[0, 0, 1, 1] > 0 > directions[0, 2, 1, 1]


@pytest.mark.parametrize("elevation", [-40, 0, 37, 90])
def test_a_camera_looks_at_the_origin_and_stands_upright(elevation: float) -> None:
    """Directions are unit vectors, the mean one points to the origin; left and right differ horizontally."""
    c = cameras(25, elevation)
    _, directions = c.rays(4)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(1, 4, 4, dtype=F64))
    middle = torch.nn.functional.normalize(directions.mean((1, 2)), dim=-1)
    torch.testing.assert_close(middle, -c.position / 2)
    across = directions[0, :, 3] - directions[0, :, 0]
    torch.testing.assert_close(across[:, 1], torch.zeros(4, dtype=F64), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (90, 0), (25, -40), (200, 37), (10, 90)])
def test_view_and_intrinsic_matrices_lead_along_the_rays(azimuth: float, elevation: float) -> None:
    """A point at any depth along a pixel's ray lands on that pixel's centre, in front of the camera."""
    c = cameras(azimuth, elevation)
    origins, directions = c.rays(4)
    points = (origins + torch.tensor([0.3, 1, 2, 5]).double()[:, None] * directions).reshape(-1, 3)
    seen = points @ c.view_matrices()[0, :3, :3].T + c.view_matrices()[0, :3, 3]
    assert (seen[:, 2] > 0).all()
    torch.testing.assert_close(seen.norm(dim=1), (points - c.position).norm(dim=1))
    pixels = seen @ c.intrinsics(4)[0].T
    pixels = (pixels[:, :2] / pixels[:, 2:]).view(4, 4, 2)
    middle = torch.arange(4).double() + 0.5
    rows, columns = torch.meshgrid(middle, middle, indexing="ij")
    torch.testing.assert_close(pixels, torch.stack([columns, rows], -1))


def test_views() -> None:
    names = [cameras(a).views()[0] for a in (0, 40, 50, -90, 130, 180, 400)]
    assert names == ["front", "front", "side", "side", "side", "back", "front"]
    assert cameras(180, 70).views() == ["overhead"]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_batch_is_uniform_in_azimuth(sampling: str) -> None:
    """Mean of cos and sin of one and two turns over 4,000 batches of 4: within 4 SE of 0."""
    sampler, g = CameraSampler(sampling=sampling), stream("azimuths", sampling)
    batches = torch.stack([sampler.sample(4, g, F64).azimuth for _ in range(4000)])
    for turns in (1, 2):
        for wave in (batches.mul(turns).cos(), batches.mul(turns).sin()):
            means = wave.mean(1)
            assert abs(means.mean()) < 4 * max(means.std() / 4000**0.5, 1e-12)
    # Var of the mean of four cosines: 1/8 iid, 0 in opposite pairs, (1/2 − (2/π)²)/4 in quarter turns
    quarters = (1 / 2 - 4 / math.pi**2) / 4
    exact = {"iid": 1 / 8, "antipodal": 0.0, "stratified": quarters, "sobol": quarters}[sampling]
    assert batches.cos().mean(1).var().item() == pytest.approx(exact, rel=0.1, abs=1e-12)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_ranges_and_the_mixture_of_elevations(sampling: str) -> None:
    """20,000 cameras: all inside; P(elevation < 0) is ½ · 10/55 + ½ · sin 10°/(sin 10° + sin 45°), 4 SE."""
    c = CameraSampler(sampling=sampling).sample(20_000, stream("ranges"), F64)
    assert 1.5 <= c.distance.min() < 1.51 < 1.99 < c.distance.max() <= 2
    assert math.radians(40) <= c.fov.min() < c.fov.max() <= math.radians(70)
    low, high = math.sin(math.radians(10)), math.sin(math.radians(45))
    p = 0.5 * 10 / 55 + 0.5 * low / (low + high)
    assert abs((c.elevation < 0).double().mean() - p) < 4 * math.sqrt(p * (1 - p) / 20_000)


@pytest.mark.parametrize("count", [2, 8, 16])
def test_sobol_cameras_have_every_coordinate_in_equal_parts(count: int) -> None:
    """One of n in each of n equal parts of azimuth, distance and fov, anew at each call; of 16, one in each
    of 4 × 4 parts of azimuth and distance."""
    sampler, g = CameraSampler(sampling="sobol"), stream("sobol cameras")
    for _ in range(20):
        c = sampler.sample(count, g, F64)
        unit = [c.azimuth / (2 * math.pi), (c.distance - 1.5) / 0.5, (c.fov.rad2deg() - 40) / 30]
        for v in unit:
            assert sorted((v * count).long().tolist()) == list(range(count))
    both = (unit[0] * 4).long() * 4 + (unit[1] * 4).long()
    assert count < 16 or sorted(both.tolist()) == list(range(16))


def test_sobol_cameras_do_not_miss_what_repeats_around() -> None:
    """The mean of cos 4φ over four cameras, whose azimuths share no offset: variance 1/8, to 5 %."""
    sampler, g = CameraSampler(sampling="sobol"), stream("cube")
    means = torch.stack([sampler.sample(4, g, F64).azimuth.mul(4).cos().mean() for _ in range(8000)])
    assert means.var().item() == pytest.approx(1 / 8, rel=0.05)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of iid, stratified, antipodal, sobol; found 'halton'"):
        CameraSampler(sampling="halton")
    with pytest.raises(ValueError, match="fov: 70 is above 40"):
        CameraSampler(fov=(70, 40))


def noisy(azimuth: float, elevation: float, *names: str) -> Cameras:
    """Off the sphere, looking beside the origin, tilted: as far as `names` say."""
    given = {
        "offset": torch.tensor([[0.1, -0.2, 0.15]], dtype=F64),
        "centre": torch.tensor([[-0.2, 0.1, 0.3]], dtype=F64),
        "tilt": torch.tensor([[0.3, 0.02, -0.1]], dtype=F64),
    }
    return replace(cameras(azimuth, elevation), **{name: given[name] for name in names})


NOISES = [("offset",), ("centre",), ("tilt",), ("offset", "centre", "tilt")]


@pytest.mark.parametrize("names", NOISES)
@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (25, -40), (200, 37), (10, 90)])
def test_cameras_with_noise_have_one_geometry(
    azimuth: float, elevation: float, names: tuple[str, ...]
) -> None:
    """Axes are right-handed and orthonormal; a point along a pixel's ray lands on that pixel's centre; what
    is looked at lands in the middle; the camera stands where it was put."""
    c = noisy(azimuth, elevation, *names)
    axes = torch.stack(c.axes, 1)[0]
    torch.testing.assert_close(axes @ axes.T, torch.eye(3, dtype=F64), rtol=0, atol=1e-12)
    assert float(torch.linalg.det(axes)) == pytest.approx(1)
    stands = cameras(azimuth, elevation).position + (0 if c.offset is None else c.offset)
    torch.testing.assert_close(c.position, stands)
    torch.testing.assert_close(c.range, stands.norm(dim=1))

    def pixels(points: torch.Tensor) -> torch.Tensor:
        seen = points @ c.view_matrices()[0, :3, :3].T + c.view_matrices()[0, :3, 3]
        assert (seen[:, 2] > 0).all()
        torch.testing.assert_close(seen.norm(dim=1), (points - c.position).norm(dim=1))
        projected = seen @ c.intrinsics(4)[0].T
        return projected[:, :2] / projected[:, 2:]

    origins, directions = c.rays(4)
    points = (origins + torch.tensor([0.3, 1, 2, 5]).double()[:, None] * directions).reshape(-1, 3)
    middle = torch.arange(4).double() + 0.5
    rows, columns = torch.meshgrid(middle, middle, indexing="ij")
    torch.testing.assert_close(pixels(points).view(4, 4, 2), torch.stack([columns, rows], -1))
    centre = torch.zeros(1, 3, dtype=F64) if c.centre is None else c.centre
    torch.testing.assert_close(pixels(centre), torch.tensor([[2.0, 2.0]], dtype=F64))


def test_noise_of_nothing_changes_no_camera() -> None:
    c, zero = cameras(25, 37), torch.zeros(1, 3, dtype=F64)
    still = replace(c, offset=zero, centre=zero, tilt=zero)
    for a, b in zip((*still.rays(4), still.view_matrices()), (*c.rays(4), c.view_matrices()), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)
    assert still.views() == c.views()


def test_a_tilt_turns_the_picture_about_its_middle() -> None:
    """From +z, up leaning to +x: the picture's top leans so, and the camera looks where it did."""
    c = replace(cameras(0), tilt=torch.tensor([[1.0, 0, 0]], dtype=F64))
    right, up, back = (axis[0] for axis in c.axes)
    torch.testing.assert_close(up, torch.tensor([1.0, 1, 0], dtype=F64) / 2**0.5)
    torch.testing.assert_close(right, torch.tensor([1.0, -1, 0], dtype=F64) / 2**0.5)
    torch.testing.assert_close(back, torch.tensor([0.0, 0, 1], dtype=F64))


def test_a_part_of_the_cameras_keeps_their_noise() -> None:
    sampler = CameraSampler(position_noise=0.1, centre_noise=0.2, up_noise=0.02)
    c = sampler.sample(5, stream("parts"), F64)
    torch.testing.assert_close(c[1:3].rays(4)[1], c.rays(4)[1][1:3])
    torch.testing.assert_close(c.to("cpu")[4:].view_matrices(), c.view_matrices()[4:])
    assert c.to(torch.zeros(1)).view_matrices().dtype == torch.float32


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_noise_follows_its_distribution(sampling: str) -> None:
    """20,000 cameras, each axis: position uniform in ±0.1 (mean 0, variance 0.01/3), centre and tilt normal
    (standard deviations 0.2, 0.02; fourth moment 3): within 4 SE, 18 comparisons. Where they stand on the
    sphere is what it is without."""
    n = 20_000
    c = CameraSampler(sampling=sampling, position_noise=0.1, centre_noise=0.2, up_noise=0.02).sample(
        n, stream("noise", sampling), F64
    )
    plain = CameraSampler(sampling=sampling).sample(n, stream("noise", sampling), F64)
    assert all(
        torch.equal(getattr(c, k), getattr(plain, k)) for k in ("azimuth", "elevation", "distance", "fov")
    )
    assert plain.offset is plain.centre is plain.tilt is None
    assert c.offset is not None
    assert 0.0999 < c.offset.abs().max() <= 0.1
    for unit, second, fourth in (
        (c.offset / 0.1, 1 / 3, 1 / 5),
        (c.centre / 0.2, 1, 3),
        (c.tilt / 0.02, 1, 3),
    ):
        assert (unit.mean(0).abs() < 4 * math.sqrt(second / n)).all()
        assert ((unit.square().mean(0) - second).abs() < 4 * math.sqrt((fourth - second**2) / n)).all()


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_elevations_go_up_to_the_zenith(sampling: str) -> None:
    """P(above 60° in [−10°, 90°]) is ½ · 30/100 + ½ (1 − sin 60°)/(1 + sin 10°), within 4 SE; all of them are
    views from overhead, and their rays are finite."""
    n = 20_000
    c = CameraSampler(elevation=(-10, 90), sampling=sampling).sample(n, stream("zenith", sampling), F64)
    assert c.elevation.max() <= math.pi / 2
    above = c.elevation > math.radians(60)
    p = 0.15 + 0.5 * (1 - math.sin(math.radians(60))) / (1 + math.sin(math.radians(10)))
    assert abs(above.double().mean() - p) < 4 * math.sqrt(p * (1 - p) / n)
    assert torch.equal(above, c.view_index() == VIEWS.index("overhead"))
    assert c.rays(2)[1].isfinite().all()
