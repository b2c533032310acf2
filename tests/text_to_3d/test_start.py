"""What Gaussians begin as."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from carv_distill.errors import UserError
from carv_distill.text_to_3d.object.ply import write_ply
from carv_distill.text_to_3d.object.splat_files import write_gaussians
from carv_distill.text_to_3d.options import DensifyOptions, GaussianOptions, HashOptions, SceneOptions
from carv_distill.text_to_3d.scene_files import save_scene
from carv_distill.text_to_3d.scenes import GaussianScene, VoxelScene, build_scene
from carv_distill.text_to_3d.start import start_from


def begun(place: Path, count: int = 10, **densify: int) -> GaussianScene:
    options = GaussianOptions(count, densify=DensifyOptions(**densify))
    scene = GaussianScene(0.8, options)
    start_from(scene, str(place), options)
    return scene


def cloud(
    folder: Path, *lines: str, kind: str = "uchar", colours: tuple[str, ...] = ("red", "green", "blue")
) -> Path:
    head = ["ply", "format ascii 1.0", f"element vertex {len(lines)}"]
    head += [f"property float {name}" for name in "xyz"]
    head += [*(f"property {kind} {name}" for name in colours), "end_header"]
    path = folder / "cloud.ply"
    path.write_text("\n".join([*head, *lines, ""]))
    return path


def test_gaussians_of_a_file_are_taken_as_they_are(tmp_path: Path) -> None:
    scene = build_scene(SceneOptions(kind="gaussians", gaussians=GaussianOptions(25)))
    assert isinstance(scene, GaussianScene)
    write_gaussians(tmp_path / "a.ply", scene)
    found = begun(tmp_path / "a.ply")
    assert all(torch.allclose(found.values[n], v, atol=1e-6) for n, v in scene.values.items())
    assert all(p.requires_grad and p.is_leaf for p in found.parameters())


@pytest.mark.parametrize(
    ("kind", "row", "green"),
    [("uchar", "51 102 255", 0.4), ("float", "0.2 0.4 1", 0.4), ("ushort", "0 32768 9", 0.5)],
)
def test_points_become_round_ones_of_their_colours(tmp_path: Path, kind: str, row: str, green: float) -> None:
    """On a line at 0, 0.1, 0.2, 0.3: the three nearest of the first are √((0.01 + 0.04 + 0.09)/3) away in the
    mean of squares; scales are half of that."""
    lines = [f"{x} 0 0 {row}" for x in (0, 0.1, 0.2, 0.3)]
    scene = begun(cloud(tmp_path, *lines, kind=kind))
    g = scene.gaussians
    assert g.means[:, 0].tolist() == pytest.approx([0, 0.1, 0.2, 0.3])
    far, near = (0.14 / 3) ** 0.5 / 2, (0.06 / 3) ** 0.5 / 2
    expected = torch.tensor([far, near, near, far])[:, None].expand(4, 3)
    torch.testing.assert_close(g.scales, expected, rtol=1e-5, atol=0)
    assert g.quaternions.tolist() == [[1, 0, 0, 0]] * 4
    torch.testing.assert_close(g.opacity, torch.full((4,), 0.1))
    assert g.colour[:, 1].tolist() == pytest.approx([green] * 4, abs=1e-4)


def test_points_without_colours_are_grey_and_one_alone_has_a_size(tmp_path: Path) -> None:
    scene = begun(cloud(tmp_path, "0.1 0.2 0.3", colours=()))
    assert scene.gaussians.colour.tolist() == [[0.5, 0.5, 0.5]]
    assert scene.gaussians.scales.isfinite().all()
    same = begun(cloud(tmp_path, *["0.1 0.2 0.3"] * 5, colours=()))
    assert same.gaussians.scales.min() > 0


def test_a_field_is_sampled_where_it_is_dense_in_its_colours(tmp_path: Path) -> None:
    """Red to the right of x = 0.2, dense; nothing elsewhere."""
    field = VoxelScene(33, 0.8)
    x = torch.linspace(-0.8, 0.8, 33)
    with torch.no_grad():
        field.density[1].copy_(torch.where(x > 0.2, 60.0, -60.0).expand_as(field.density[1]))
        field.colour[1][0, 0], field.colour[1][0, 1:] = 3.0, -3.0
    view = SceneOptions(resolution=33)
    save_scene(tmp_path / "object", field, view, "a red torus", 7)
    for place in (tmp_path, tmp_path / "object"):
        scene = begun(place, 500)
        assert len(scene.means) == 500
        assert scene.means[:, 0].min() > 0.15
        assert scene.means.abs().max() < 0.8 + 1e-6
        # evenly: the mean of 500 places in a side of 1.6 is within 4 × 1.6/√(12 · 500) of 0
        assert scene.means[:, 1:].mean(0).abs().max() < 4 * 1.6 / (12 * 500) ** 0.5
        red = torch.tensor([3.0, -3.0, -3.0]).sigmoid()
        torch.testing.assert_close(scene.gaussians.colour, red.expand(500, 3), rtol=0, atol=1e-4)
    assert torch.equal(begun(tmp_path, 500).means, begun(tmp_path, 500).means)


def test_a_hash_grid_is_sampled_and_gaussians_of_a_run_are_taken_over(tmp_path: Path) -> None:
    view = SceneOptions(kind="hash", hash=HashOptions(levels=2, log_size=8))
    save_scene(tmp_path / "hash", build_scene(view), view, "x", 1)
    scene = begun(tmp_path / "hash", 300)
    assert len(scene.means) == 300
    assert scene.means.norm(dim=1).median() < 0.5  # the ball that fields begin as
    view = SceneOptions(kind="gaussians", gaussians=GaussianOptions(17))
    before = build_scene(view)
    save_scene(tmp_path / "gaussians", before, view, "x", 1)
    after = begun(tmp_path / "gaussians", 300)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


@pytest.mark.parametrize(
    ("lines", "colours", "said"),
    [
        ([], (), "has no vertices"),
        (["0 0 nan"], (), "z of vertex 0 is nan"),
        (["5 0 0", "0 -3 0"], (), "none of the 2 points of .* is in the cube from −0.8 to 0.8"),
        (["0 0 0 1 2"], ("red", "blue"), "has red and no green; colours are red, green and blue, or none"),
        (["0 0 0 7"], ("opacity",), r"no property f_dc_0 of its vertices, which Gaussians need in the 3DGS"),
        (["0 0 0 7"], ("scale_0",), r"no property f_dc_0 .* a plain point cloud has x, y, z and, if at all"),
    ],
)
def test_what_they_cannot_begin_as_is_one_line(
    tmp_path: Path, lines: list[str], colours: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UserError, match=said) as found:
        begun(cloud(tmp_path, *lines, colours=colours))
    assert str(found.value).startswith("scene.gaussians.start: ")
    assert str(found.value).count("scene.gaussians.start") == 1
    assert "\n" not in str(found.value)


def test_colours_of_another_scale_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="red, green and blue are to be bytes, or numbers from 0 to 1"):
        begun(cloud(tmp_path, "0 0 0 255 0 0", kind="float"))


def test_axes_that_are_missing_are_named(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", np.zeros(2, [("x", "f4"), ("z", "f4")]))
    with pytest.raises(UserError, match="has no property y of its vertices; points have x, y, z"):
        begun(tmp_path / "a.ply")


def test_places_without_a_scene_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^scene.gaussians.start: .* holds no readable scene"):
        begun(tmp_path)
    (tmp_path / "a.txt").write_text("x y z")
    with pytest.raises(UserError, match=r"^scene.gaussians.start: .*a.txt is no PLY file"):
        begun(tmp_path / "a.txt")


def test_more_than_density_control_allows_is_refused(tmp_path: Path) -> None:
    path = cloud(tmp_path, *["0 0 0", "0.1 0 0", "0 0.1 0"], colours=())
    assert len(begun(path, most=2).means) == 3
    with pytest.raises(UserError, match=r"has 3 Gaussians, above scene.gaussians.densify.most, 2; give"):
        begun(path, every=1, most=2)


def test_what_lies_outside_of_the_cube_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(begun(cloud(tmp_path, "0 0 0", "0 2 0", colours=())).means) == 2
    assert "1 of 2 points lie outside of the scene's cube" in caplog.text
