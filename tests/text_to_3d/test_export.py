"""A field as files."""

from __future__ import annotations

import json
import logging
import struct
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from carv_distill.errors import UserError
from carv_distill.text_to_3d.export import (
    extract_mesh,
    linear_bytes,
    load_scene,
    pictures,
    save_scene,
    turntable,
    write_mesh,
    write_turntable,
)
from carv_distill.text_to_3d.options import SCENES, GaussianOptions, HashOptions, SceneOptions
from carv_distill.text_to_3d.scenes import build_scene

VIEW = SceneOptions(resolution=24, size=16, samples=24)


def test_a_field_comes_back_as_it_was(tmp_path: Path) -> None:
    for kind in SCENES:
        view = SceneOptions(kind=kind, resolution=16, gaussians=GaussianOptions(30))
        scene = build_scene(view)
        for p in scene.parameters():
            torch.nn.init.normal_(p)
        save_scene(tmp_path / kind, scene, view, "a red torus", 7)
        again, its_view, prompt = load_scene(tmp_path / kind)
        assert (its_view, prompt) == (view, "a red torus")
        points = torch.rand(100, 3) - 0.5
        for a, b in zip(scene(points), again(points), strict=True):
            assert torch.equal(a, b)


def test_a_field_saved_before_its_sizes_were_options_is_read(tmp_path: Path) -> None:
    view = SceneOptions(kind="hash", resolution=64)
    scene = build_scene(view)
    save_scene(tmp_path, scene, view, "a red torus", 7)
    about = json.loads((tmp_path / "scene.json").read_text())
    del about["view"]["hash"]
    (tmp_path / "scene.json").write_text(json.dumps(about))
    again, its_view, _ = load_scene(tmp_path)
    assert its_view == view
    assert tuple(again.tables.shape) == (8, 2**15, 2)
    assert torch.equal(again.tables, scene.tables)


def test_sizes_come_back_with_the_field(tmp_path: Path) -> None:
    view = SceneOptions(kind="hash", resolution=32, hash=HashOptions(3, 8, 4, 4, 5))
    save_scene(tmp_path, build_scene(view), view, "a red torus", 7)
    again, its_view, _ = load_scene(tmp_path)
    assert its_view == view
    assert again.sides == [4, 11, 32]
    assert tuple(again.tables.shape) == (3, 2**8, 4)


def test_gaussians_are_shown_by_whatever_is_there(tmp_path: Path) -> None:
    """A scene trained with gsplat is loaded on a machine without it."""
    view = SceneOptions(kind="gaussians", gaussians=GaussianOptions(10, "gsplat"))
    save_scene(tmp_path, build_scene(view), view, "a red torus", 7)
    again, its_view, _ = load_scene(tmp_path)
    assert its_view.gaussians == GaussianOptions(10, "auto")
    assert pictures(again, turntable(2), 8, 1).shape == (2, 3, 8, 8)


def test_one_flipped_bit_of_a_field_is_found(tmp_path: Path) -> None:
    save_scene(tmp_path, build_scene(VIEW), VIEW, "x", 0)
    content = bytearray((tmp_path / "scene.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "scene.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"scene\.safetensors is damaged: its SHA-256"):
        load_scene(tmp_path)


def test_a_damaged_field_is_named(tmp_path: Path) -> None:
    save_scene(tmp_path, build_scene(VIEW), VIEW, "x", 0)
    (tmp_path / "scene.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"scene\.safetensors is damaged"):
        load_scene(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()  # as it was before there were digests
    with pytest.raises(UserError, match="holds no readable scene"):
        load_scene(tmp_path)
    with pytest.raises(UserError, match="holds no readable scene"):
        load_scene(tmp_path / "none")


def test_the_mesh_of_a_ball_is_a_closed_ball_of_its_colour(tmp_path: Path) -> None:
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
    assert write_mesh(tmp_path, scene, 32)
    for name, expected in (("mesh.glb", [244, 55, 55]), ("mesh.obj", [250, 128, 128])):
        again = trimesh.load(tmp_path / name, force="mesh")
        colour = np.asarray(again.visual.vertex_colors)[:, :3].mean(0)
        assert colour == pytest.approx(expected, abs=2)


class HalfBall(torch.nn.Module):
    """A solid half ball of one colour, or nothing at all."""

    extent = 0.8

    def __init__(self, density: float, colour: float = 0.5) -> None:
        super().__init__()
        self.parameter = torch.nn.Parameter(torch.zeros(1))
        self.density, self.colour = density, colour

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inside = (x.norm(dim=-1) < 0.5) & (x[:, 1] > 0)
        return self.density * inside.float(), torch.full_like(x, self.colour)


@pytest.mark.parametrize(("colour", "byte"), [(0.5, 55), (0.0, 0), (1.0, 255), (0.03, 1), (0.75, 133)])
def test_gltf_has_linear_colours(colour: float, byte: int, tmp_path: Path) -> None:
    """COLOR_0 as it lies in the file: 0.5 is sRGB, so 0.214 of the light."""
    assert write_mesh(tmp_path, HalfBall(50.0, colour), 24)  # type: ignore[arg-type]
    content = (tmp_path / "mesh.glb").read_bytes()
    (length,) = struct.unpack_from("<I", content, 12)
    tree = json.loads(content[20 : 20 + length])
    accessor = tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    assert accessor["componentType"] == 5121  # bytes
    assert accessor["normalized"]
    start = 28 + length + tree["bufferViews"][accessor["bufferView"]]["byteOffset"]
    values = np.frombuffer(content, np.uint8, 4 * accessor["count"], start).reshape(-1, 4)
    assert (values == [byte, byte, byte, 255]).all()


def test_linear_light_of_every_byte() -> None:
    """Against the standard's formula at each byte, the seam between its parts included; opacity stays."""
    rgba = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, 1)
    linear = linear_bytes(rgba)
    assert (linear[:, 3] == rgba[:, 3]).all()
    for byte in range(256):
        c = byte / 255
        light = c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        assert (linear[byte, :3] == round(255 * light)).all()
    assert (np.diff(linear[:, 0].astype(int)) >= 0).all()


@pytest.mark.parametrize("density", [0.0, float("nan"), 1e-9, -5.0])
def test_a_field_without_surface_is_a_warning(
    density: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert not write_mesh(tmp_path, HalfBall(density), 24)  # type: ignore[arg-type]
    assert "no mesh, as the density nowhere crosses the surface's level" in caplog.text
    assert not list(tmp_path.iterdir())


def test_the_mesh_of_a_gaussian_is_the_surface_of_its_fog() -> None:
    """σ(r) = −ln(1 − o)/(√(2π) s) exp(−r²/2s²) crosses ln 2/(0.1 · 1.6) at r = s √(2 ln(σ(0)/level))."""
    scene = build_scene(SceneOptions(kind="gaussians", gaussians=GaussianOptions(1)))
    with torch.no_grad():
        scene.means[:] = torch.tensor([0.1, -0.2, 0.3])
        scene.log_scales.fill_(np.log(0.15))
        scene.opacity_logits.fill_(6.0)
        scene.colour_logits[0, 0] = 4.0
    mesh = extract_mesh(scene, 64)
    assert mesh is not None
    assert mesh.is_watertight
    peak = np.log1p(np.exp(6.0)) / (np.sqrt(2 * np.pi) * 0.15)
    radius = 0.15 * np.sqrt(2 * np.log(peak / (np.log(2) / 0.16)))
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.02)
    assert mesh.vertices.mean(0) == pytest.approx([0.1, -0.2, 0.3], abs=0.01)
    assert mesh.visual.vertex_colors[:, :3].mean(0) == pytest.approx([250, 128, 128], abs=1)


def test_an_empty_field_has_no_mesh_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scene = build_scene(VIEW)
    with torch.no_grad():
        scene.density[1] -= 50.0
    with caplog.at_level(logging.WARNING):
        assert not write_mesh(tmp_path, scene, 16)
    assert "no mesh" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_turntable_is_a_video_and_a_sheet(tmp_path: Path) -> None:
    write_turntable(tmp_path, build_scene(VIEW), VIEW, frames=16, size=32)
    video = iio.imread(tmp_path / "turntable.mp4", plugin="FFMPEG")
    assert video.shape == (16, 32, 32, 3)
    with Image.open(tmp_path / "views.png") as sheet:
        assert sheet.size == (8 * 33 + 1, 34)


@pytest.mark.parametrize(("size", "side"), [(33, 34), (35, 36), (36, 36), (31, 32), (1, 2)])
def test_a_video_of_any_size_keeps_it(
    size: int, side: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """To the next even number, without scaling, in colours that every player shows."""
    write_turntable(tmp_path, build_scene(VIEW), VIEW, frames=8, size=size)
    assert "resizing" not in capfd.readouterr().err
    about = iio.immeta(tmp_path / "turntable.mp4", plugin="FFMPEG")
    assert about["size"] == (side, side)
    assert "yuv420p" in about["pix_fmt"]
    video = iio.imread(tmp_path / "turntable.mp4", plugin="FFMPEG").astype(int)
    # the last row is there twice, to the error of the codec
    if size % 2:
        assert np.abs(video[:, -1] - video[:, -2]).mean() < 12


def test_an_interrupted_video_keeps_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "turntable.mp4").write_bytes(b"before")

    def broken(*_: object, **__: object) -> bytes:
        raise OSError("pipe closed")

    monkeypatch.setattr(iio, "imwrite", broken)
    with pytest.raises(UserError, match=r"turntable\.mp4 could not be written \(pipe closed\)"):
        write_turntable(tmp_path, build_scene(VIEW), VIEW, frames=8, size=16)
    assert (tmp_path / "turntable.mp4").read_bytes() == b"before"
    assert not list(tmp_path.glob(".*"))


def test_cameras_go_once_around() -> None:
    cameras = turntable(4)
    assert cameras.views() == ["front", "side", "back", "side"]
    assert torch.allclose(cameras.position.norm(dim=1), torch.full((4,), 1.75))
