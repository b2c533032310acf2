"""The surface of a scene."""

from __future__ import annotations

import logging
from collections.abc import Callable

import fast_simplification
import numpy as np
import pytest
import torch
import trimesh
from scipy.optimize import brentq

from benchmarks.measure import peak_bytes
from carv_distill.geometry.solids import SOLIDS, Solid, ball, cube, torus
from carv_distill.text_to_3d.object import mesh as mesh_module
from carv_distill.text_to_3d.object.mesh import colours_at, decimated, extract_mesh, without_floaters
from carv_distill.text_to_3d.options import GaussianOptions, HashOptions, SceneOptions
from carv_distill.text_to_3d.scenes import VoxelScene, build_scene
from carv_distill.text_to_3d.scenes.scene import blob
from tests.helpers.solid_scenes import BLUE, RED, SolidScene, ball_at, two_tone, union, without

VIEW = SceneOptions(resolution=24, size=16, samples=24)
EULER = {name: 0 if name == "torus" else 2 for name in SOLIDS}
VOLUME = {
    "ball": 4 / 3 * np.pi * 0.55**3,
    "cube": 0.8**3 + 6 * 0.8**2 * 0.02,
    "torus": 2 * np.pi**2 * 0.42 * 0.18**2,
}


def test_the_mesh_of_a_ball_is_a_closed_ball_of_its_colour() -> None:
    """The surface lies where softplus(10 (1 − r/0.5)) = ln 2/(0.1 · 1.6): r = 0.5 (1 − 0.4319…)."""
    scene = build_scene(VIEW)
    with torch.no_grad():
        scene.colour[1][0, 0] = 4.0
    mesh = extract_mesh(scene, 64)
    assert mesh is not None
    assert mesh.is_watertight
    assert mesh.volume > 0  # faces are seen from outside
    level = float(np.log(2) / 0.16)
    radius = 0.5 * (1 - np.log(np.expm1(level)) / 10)
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.02)
    assert np.abs(mesh.vertices.mean(0)).max() < 0.01
    assert (np.abs(colours_at(scene, mesh.vertices).astype(int) - [250, 128, 128]) <= 1).all()


def test_the_mesh_of_a_gaussian_is_the_surface_of_its_fog() -> None:
    """σ(r) = Li_½(o exp(−r²/2s²))/(√(2π) s) crosses ln 2/(0.1 · 1.6) where z + z²/√2 + z³/√3 + … of
    z = o exp(−r²/2s²) is √(2π) s ln 2/0.16 = 1.629…, at z = 0.70846…"""
    scene = build_scene(SceneOptions(kind="gaussians", gaussians=GaussianOptions(1)))
    with torch.no_grad():
        scene.means[:] = torch.tensor([0.1, -0.2, 0.3])
        scene.log_scales.fill_(np.log(0.15))
        scene.opacity_logits.fill_(6.0)
        scene.colour_logits[0, 0] = 4.0
    mesh = extract_mesh(scene, 64)
    assert mesh is not None
    assert mesh.is_watertight
    n = np.arange(1, 400)
    z = brentq(lambda z: (z**n / np.sqrt(n)).sum() - np.sqrt(2 * np.pi) * 0.15 * np.log(2) / 0.16, 0, 0.9)
    radius = 0.15 * np.sqrt(2 * np.log(1 / (1 + np.exp(-6.0)) / z))
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.02)
    assert mesh.vertices.mean(0) == pytest.approx([0.1, -0.2, 0.3], abs=0.01)
    assert colours_at(scene, mesh.vertices).mean(0) == pytest.approx([250, 128, 128], abs=1)


@pytest.mark.parametrize("name", SOLIDS)
@pytest.mark.parametrize("faces", [1_000_000, 2_000, 500])
def test_a_solid_is_one_closed_body_with_its_holes(name: str, faces: int) -> None:
    """V − E + F is 2 for a ball and all that can be bent from it, and 0 for a torus; also of few faces."""
    mesh = extract_mesh(SolidScene(SOLIDS[name]), 48, faces=faces)
    assert mesh is not None
    assert (mesh.is_watertight, mesh.body_count, mesh.euler_number) == (True, 1, EULER[name])
    assert mesh.is_winding_consistent
    assert 0 < len(mesh.faces) <= faces
    if name in VOLUME:
        assert mesh.volume == pytest.approx(VOLUME[name], rel=0.03)


@pytest.mark.parametrize("name", ["ball", "cube", "torus"])
def test_a_mesh_of_few_faces_lies_on_the_solid(name: str) -> None:
    """Within a tenth of the solid's radius of 0.5 at 500 faces; at 2,000 within one cell of the grid."""
    solid = SOLIDS[name]
    for faces, error in ((500, 0.05), (2_000, 1.6 / 47)):
        mesh = extract_mesh(SolidScene(solid), 48, faces=faces)
        assert mesh is not None
        points, _ = trimesh.sample.sample_surface(mesh, 2_000, seed=0)
        assert solid(torch.from_numpy(np.array(points))).abs().max() <= error


def test_floaters_are_left_out() -> None:
    """Balls of 0.4 %, 1.2 % and 9.9 % of the large one's volume, at a least share of 5 %, and at others."""
    large = ball_at((0.1, 0, 0), 0.39)
    others = [ball_at((-0.6, 0.6, 0), 0.06), ball_at((-0.6, -0.6, 0), 0.09), ball_at((-0.55, 0, 0), 0.18)]
    scene = SolidScene(union(large, *others))
    for part, bodies in ((0.05, 2), (0.5, 1), (1.0, 1), (0.009, 3), (0.0, 4)):
        mesh = extract_mesh(scene, 80, part)
        assert mesh is not None
        assert (mesh.body_count, mesh.euler_number, mesh.is_watertight) == (bodies, 2 * bodies, True), part
    alone = extract_mesh(SolidScene(large), 80)
    again = extract_mesh(scene, 80, 0.5)
    assert alone is not None
    assert again is not None
    assert again.volume == pytest.approx(alone.volume, rel=1e-6)
    assert len(again.vertices) == len(alone.vertices)  # none is left that no face has


@pytest.mark.parametrize(
    "inside",
    [ball_at((0.1, 0, 0), 0.3), without(ball_at((0, 0.1, 0), 0.4), ball_at((0, 0.1, 0), 0.3)), torus],
)
def test_what_is_hollow_is_filled(inside: object) -> None:
    """A hollow ball, one with a ball in its hollow, and a ball with a hollow like a torus are all balls."""
    scene = SolidScene(without(ball_at((0, 0, 0), 0.65), inside))  # type: ignore[arg-type]
    mesh = extract_mesh(scene, 48, faces=1_000_000)
    assert mesh is not None
    assert (mesh.body_count, mesh.euler_number, mesh.is_watertight) == (1, 2, True)
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.65**3, rel=0.02)


def test_a_hole_that_leads_out_stays() -> None:
    """A ball with a shaft through it is a torus, and one with a pit is a ball."""

    def shaft(p: torch.Tensor) -> torch.Tensor:
        return p[..., [0, 2]].norm(dim=-1) - 0.15

    def pit(p: torch.Tensor) -> torch.Tensor:
        return torch.maximum(shaft(p), -p[..., 1])

    for hole, euler in ((shaft, 0), (pit, 2)):
        mesh = extract_mesh(SolidScene(without(ball, hole)), 48, faces=3_000)
        assert mesh is not None
        assert (mesh.body_count, mesh.euler_number, mesh.is_watertight) == (1, euler, True)


def test_bodies_have_their_own_volume() -> None:
    """The share is of volumes, wherever a body stands: two like ones stay, a flat one of much area not."""
    two = extract_mesh(SolidScene(union(ball_at((-0.4, 0, 0), 0.3), ball_at((0.4, 0.1, 0), 0.29))), 48)
    assert two is not None
    assert two.body_count == 2
    block = trimesh.creation.box((1, 1, 1))
    plate = trimesh.creation.box(
        (1, 1, 0.01), transform=trimesh.transformations.translation_matrix([5, 5, 5])
    )
    both = trimesh.util.concatenate([block, plate])
    assert without_floaters(both, 0.02).body_count == 1
    assert without_floaters(both, 0.005).body_count == 2


def sponge(cells: float) -> Solid:
    """A ball with the holes of a gyroid: a surface of many handles, as raw fields have."""

    def distance(p: torch.Tensor) -> torch.Tensor:
        x, y, z = (cells * p).unbind(-1)
        sheet = x.sin() * y.cos() + y.sin() * z.cos() + z.sin() * x.cos()
        return torch.maximum(ball(p), (sheet.abs() - 0.5) / cells)

    return distance


@pytest.mark.parametrize("cells", [10.0, pytest.param(14.0, marks=pytest.mark.slow)])
def test_a_surface_of_many_handles_keeps_them_all(cells: float, caplog: pytest.LogCaptureFixture) -> None:
    """Also where plain decimation pinches it, and where so few faces are too few for it."""
    whole = extract_mesh(SolidScene(sponge(cells)), 64, faces=1_000_000)
    assert whole is not None
    assert whole.euler_number < -30
    for faces in (len(whole.faces) // 2, len(whole.faces) // 5):
        fewer = decimated(whole, faces)
        assert len(fewer.faces) <= faces
        assert (fewer.is_watertight, fewer.euler_number, fewer.body_count) == (
            True,
            whole.euler_number,
            whole.body_count,
        )
        assert fewer.is_winding_consistent
        assert fewer.volume == pytest.approx(whole.volume, rel=0.02)
    assert not caplog.messages
    least = decimated(whole, 50)
    assert (least.is_watertight, least.euler_number) == (True, whole.euler_number)
    assert 50 < len(least.faces) < len(whole.faces) // 5
    assert f"the mesh has {len(least.faces)} faces: with export.faces=50 it would not be" in caplog.text


def test_a_surface_that_would_change_keeps_its_faces(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = extract_mesh(SolidScene(cube), 24, faces=1_000_000)
    assert whole is not None

    def torn(points: np.ndarray, faces: np.ndarray, _: object) -> tuple[np.ndarray, np.ndarray]:
        return points, faces[:100]

    monkeypatch.setattr(fast_simplification, "replay_simplification", torn)
    with caplog.at_level(logging.WARNING):
        assert decimated(whole, 100) is whole
    assert f"the mesh has {len(whole.faces)} faces: with export.faces=100" in caplog.text


def voxel_ball(raw: Callable[[torch.Tensor], torch.Tensor]) -> VoxelScene:
    """Voxels whose raw density is that of their distance inwards from a radius of 0.5, in voxels."""
    scene = VoxelScene(40, 0.8)
    line = torch.linspace(-0.8, 0.8, 40)
    points = torch.cartesian_prod(line, line, line)[:, [2, 1, 0]]
    values = raw((0.5 - points.norm(dim=1)) / scene.finest) - blob(points)
    with torch.no_grad():
        scene.density[1][:] = values.view(1, 1, 40, 40, 40)
    return scene


def shape(scene: VoxelScene) -> tuple[float, float, float]:
    """Mean and standard deviation of the vertices' distance from the radius, in voxels, and the mean angle
    between neighbouring faces, degrees, on some 33,000 of them."""
    mesh = extract_mesh(scene, 96, faces=1_000_000)
    assert mesh is not None
    assert (mesh.is_watertight, mesh.euler_number, mesh.body_count) == (True, 2, 1)
    off = (np.linalg.norm(mesh.vertices, axis=1) - 0.5) / scene.finest
    return off.mean(), off.std(), np.degrees(mesh.face_adjacency_angles.mean())


def test_noise_of_voxels_is_not_seen_on_the_surface(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the slope g a voxel and noise of the deviation τ, the surface is off by τ/g √∫ B̂(f)² K̂(f)² df over
    frequencies in space: B̂ = sinc² along each axis of trilinear look-ups, K̂ = 2 Ĝ − Ĝ² of the filter, and 1
    without it: by 0.54 and 0.27 of τ/g."""
    slope, noise, f = 4.4, 1.1, np.linspace(-3, 3, 121)
    level = np.log(np.expm1(np.log(2) / 0.16))
    speckle = noise * torch.randn(40**3, generator=torch.Generator().manual_seed(0))
    ideal = shape(voxel_ball(lambda inwards: level + slope * inwards))[2]
    scene = voxel_ball(lambda inwards: level + slope * inwards + speckle)

    def expected(deviation: float) -> float:
        lookup, gaussian = (
            np.einsum("i,j,k->ijk", *[along] * 3)
            for along in (np.sinc(f) ** 2, np.exp(-2 * (np.pi * deviation * f) ** 2))
        )
        through = lookup * (2 * gaussian - gaussian**2)
        return noise / slope * np.sqrt((through**2).sum() * (f[1] - f[0]) ** 3)

    _, rms, angle = shape(scene)
    assert rms == pytest.approx(expected(mesh_module.EVENNESS), rel=0.15)
    assert angle < 2 * ideal
    monkeypatch.setattr(mesh_module, "EVENNESS", 1e-6)
    _, rms, angle = shape(scene)
    assert rms == pytest.approx(expected(0), rel=0.15)
    assert angle > 6 * ideal


def test_an_even_ball_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """By 0.005 of a voxel; G alone would shrink it by deviation²/ρ, here 0.046."""
    level = np.log(np.expm1(np.log(2) / 0.16))
    scene = voxel_ball(lambda inwards: level + 4.4 * inwards)
    mean, rms, _ = shape(scene)
    monkeypatch.setattr(mesh_module, "EVENNESS", 1e-6)
    assert mean == pytest.approx(shape(scene)[0], abs=0.005)
    assert rms < 0.005


@pytest.mark.parametrize("density", [20.0, 200.0])
def test_full_and_empty_voxels_make_an_even_ball(density: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no voxel lies between, of any density inside: its steps are gone, and it is hardly smaller."""
    scene = voxel_ball(lambda inwards: (2 * density * inwards).clamp(-density, density))
    mean, rms, angle = shape(scene)
    monkeypatch.setattr(mesh_module, "EVENNESS", 1e-6)
    stepped, steps, rough = shape(scene)
    assert abs(mean - stepped) < 0.04
    assert rms < 0.5 * steps
    assert angle < 0.25 * rough


def test_a_plate_of_one_voxel_stays() -> None:
    """One layer of full voxels among empty ones, of 0.98 of a voxel where the density is above the level."""
    scene = voxel_ball(lambda inwards: torch.full_like(inwards, -200.0))
    with torch.no_grad():
        scene.density[1][0, 0, 20, 5:35, 5:35] += 400.0
    mesh = extract_mesh(scene, 96)
    assert mesh is not None
    assert (mesh.is_watertight, mesh.euler_number, mesh.body_count) == (True, 2, 1)
    width, _, thickness = mesh.extents / scene.finest
    assert width > 27
    assert 0.4 < thickness < 1.1


def test_a_hollow_behind_a_thin_wall_is_filled() -> None:
    """Before the density is evened out, which would thin the wall; where a way out closes then, once more."""
    shell = voxel_ball(lambda inwards: torch.where((inwards - 1).abs() < 0.87, 200.0, -200.0))
    with torch.no_grad():
        shell.density[1][0, 0, 20, 20, 20:] -= 400.0  # a bore of one voxel
    full = voxel_ball(lambda inwards: torch.where(inwards > 0.13, 200.0, -200.0))
    meshes = [extract_mesh(scene, 96) for scene in (shell, full)]
    assert meshes[0] is not None
    assert meshes[1] is not None
    assert [(m.is_watertight, m.euler_number, m.body_count) for m in meshes if m] == [(True, 2, 1)] * 2
    assert meshes[0].volume == pytest.approx(meshes[1].volume, rel=0.1)


def test_colours_are_the_scenes() -> None:
    points = np.array([[0.3, 0, 0], [-0.3, 0.2, 0.1], [0.1, -0.5, 0.0]])
    colours = colours_at(SolidScene(ball, two_tone), points, memory=1e-9)
    assert colours.tolist() == [[round(255 * c) for c in tone] for tone in (RED, BLUE, RED)]


def test_a_mesh_in_small_pieces_is_the_mesh() -> None:
    """A plane of the grid at a time, and less than a plane, within the memory that is given."""
    scene = build_scene(SceneOptions(kind="hash", resolution=16, hash=HashOptions(log_size=8)))
    whole = extract_mesh(scene, 32)
    assert whole is not None
    for memory in (0.012, 0.0024):
        apart = extract_mesh(scene, 32, memory=memory)
        assert apart is not None
        assert np.allclose(apart.vertices, whole.vertices, atol=1e-6)
        assert np.array_equal(apart.faces, whole.faces)
    assert peak_bytes(lambda: extract_mesh(scene, 32, memory=0.012)) <= 0.012 * 2**30
    assert peak_bytes(lambda: extract_mesh(scene, 32)) > 0.012 * 2**30
