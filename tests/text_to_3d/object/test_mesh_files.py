"""A surface as files."""

from __future__ import annotations

import io
import json
import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
import xatlas
from PIL import Image

from carv_distill.geometry.solids import ball, cube, torus
from carv_distill.text_to_3d.object.mesh_files import COLOURED, TEXTURED, linear_bytes, write_mesh
from carv_distill.text_to_3d.options import ExportOptions, SceneOptions
from carv_distill.text_to_3d.scenes import Scene, build_scene
from tests.helpers.glb import glb_tree
from tests.helpers.solid_scenes import BLUE, RED, SolidScene, two_tone

SMALL = ExportOptions(mesh=40, faces=1_000, texture=128)


class HalfBall(Scene):
    """A solid half ball of one colour, or nothing at all."""

    point_bytes = 100

    def __init__(self, density: float, colour: float = 0.5) -> None:
        super().__init__(0.8)
        self.parameter = torch.nn.Parameter(torch.zeros(1))
        self.density, self.colour = density, colour

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inside = (x.norm(dim=-1) < 0.5) & (x[:, 1] > 0)
        return self.density * inside.float(), torch.full_like(x, self.colour)


@pytest.mark.parametrize(("colour", "byte"), [(0.5, 55), (0.0, 0), (1.0, 255), (0.03, 1), (0.75, 133)])
def test_gltf_has_linear_colours(colour: float, byte: int, tmp_path: Path) -> None:
    """COLOR_0 as it lies in the file: 0.5 is sRGB, so 0.214 of the light."""
    assert write_mesh(tmp_path, HalfBall(50.0, colour), ExportOptions(mesh=24, texture=0))
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
        assert not write_mesh(tmp_path, HalfBall(density), ExportOptions(mesh=24, texture=0))
    assert "no mesh, as the density nowhere crosses the surface's level" in caplog.text
    assert not list(tmp_path.iterdir())


def test_an_empty_field_has_no_mesh_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scene = build_scene(SceneOptions(resolution=24))
    with torch.no_grad():
        scene.density[1] -= 50.0
    with caplog.at_level(logging.WARNING):
        assert not write_mesh(tmp_path, scene, ExportOptions(mesh=16))
    assert "no mesh" in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("solid", "euler"), [(ball, 2), (cube, 2), (torus, 0)])
def test_all_files_have_the_same_closed_surface(solid: Any, euler: int, tmp_path: Path) -> None:
    assert write_mesh(tmp_path, SolidScene(solid, two_tone), SMALL)
    assert {p.name for p in tmp_path.iterdir()} == {*COLOURED, *TEXTURED}
    meshes = []
    for name in (*COLOURED, *TEXTURED[:2]):
        mesh: Any = trimesh.load(tmp_path / name, force="mesh")
        mesh.merge_vertices(merge_tex=True, merge_norm=True)  # those on seams are there twice
        assert (mesh.is_watertight, mesh.euler_number, len(mesh.faces) <= 1_000) == (True, euler, True), name
        meshes.append(mesh)
    for mesh in meshes[1:]:
        assert mesh.volume == pytest.approx(meshes[0].volume, rel=1e-6)
        assert mesh.area == pytest.approx(meshes[0].area, rel=1e-6)
        assert np.allclose(mesh.bounds, meshes[0].bounds, atol=1e-7)
        assert len(mesh.faces) == len(meshes[0].faces)


@pytest.mark.parametrize("name", TEXTURED[:2])
@pytest.mark.parametrize("solid", [ball, cube, torus])
def test_the_texture_has_the_colour_of_each_place(solid: Any, name: str, tmp_path: Path) -> None:
    """Points all over the surface, bilinearly between four texels, seams included: red where x > 0, blue
    elsewhere, but within two texels of the edge between the two."""
    scene = SolidScene(solid, two_tone)
    write_mesh(tmp_path, scene, SMALL)
    mesh: Any = trimesh.load(tmp_path / name, force="mesh")
    points, face = trimesh.sample.sample_surface(mesh, 20_000, seed=0)
    weight = trimesh.triangles.points_to_barycentric(mesh.triangles[face], points)
    uv = np.einsum("nk,nkd->nd", weight, mesh.visual.uv[mesh.faces[face]])
    material = mesh.visual.material
    image = getattr(material, "image", None) or material.baseColorTexture
    seen = bilinear(np.asarray(image.convert("RGB"), float), uv) / 255
    texel = 2 * np.sqrt(mesh.area) / 128
    for side, tone in ((points[:, 0] > 2 * texel, RED), (points[:, 0] < -2 * texel, BLUE)):
        assert side.sum() > 3_000
        assert np.abs(seen[side] - tone).max() < 3 / 255


def bilinear(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """As a viewer looks a texture up, [H, W, 3] at [n, 2] from the bottom left."""
    height, width = image.shape[:2]
    x, y = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    total = np.zeros((len(uv), 3))
    for column, row in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = np.abs(1 - column - (x - left)) * np.abs(1 - row - (y - top))
        place = (top + row).clip(0, height - 1), (left + column).clip(0, width - 1)
        total += share[:, None] * image[place]
    return total


def test_a_viewer_does_not_multiply_texture_and_colours(tmp_path: Path) -> None:
    """glTF 2.0, 3.9.2: COLOR_0 is a factor of the base colour's texture, so no primitive has both."""
    write_mesh(tmp_path, SolidScene(ball, two_tone), SMALL)
    plain, look = (glb_tree((tmp_path / name).read_bytes()) for name in ("mesh.glb", "textured.glb"))
    (primitive,) = plain["meshes"][0]["primitives"]
    assert "COLOR_0" in primitive["attributes"]
    matt = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    assert plain["materials"][primitive["material"]]["pbrMetallicRoughness"] == matt
    (primitive,) = look["meshes"][0]["primitives"]
    assert {"POSITION", "TEXCOORD_0"} <= primitive["attributes"].keys()
    assert "COLOR_0" not in primitive["attributes"]
    surface = look["materials"][primitive["material"]]["pbrMetallicRoughness"]
    assert matt.items() <= surface.items()
    assert "baseColorTexture" in surface


def test_an_obj_names_its_files(tmp_path: Path) -> None:
    write_mesh(tmp_path, SolidScene(ball, two_tone), SMALL)
    assert "mtllib textured.mtl" in (tmp_path / "textured.obj").read_text()
    assert "map_Kd textured.png" in (tmp_path / "textured.mtl").read_text()
    with Image.open(io.BytesIO((tmp_path / "textured.png").read_bytes())) as picture:
        assert min(picture.size) > 64


class Broken:
    """An atlas that cannot be made."""

    def add_mesh(self, *_: object) -> None:
        raise RuntimeError("Adding mesh failed: error")


class Torn(xatlas.Atlas):
    """One that loses faces."""

    def get_mesh(self, number: int) -> Any:
        source, faces, uv = super().get_mesh(number)
        return source, faces[:-1], uv


class Lost(xatlas.Atlas):
    """One that lies nowhere."""

    def get_mesh(self, number: int) -> Any:
        source, faces, uv = super().get_mesh(number)
        return source, faces, uv * np.nan


@pytest.mark.parametrize("atlas", [Broken, Torn, Lost])
def test_an_atlas_that_fails_leaves_colours_and_one_line(
    atlas: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scene = SolidScene(ball, two_tone)
    assert write_mesh(tmp_path, scene, SMALL)
    monkeypatch.setattr(xatlas, "Atlas", atlas)
    with caplog.at_level(logging.WARNING):
        assert write_mesh(tmp_path, scene, SMALL)
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path}: no texture, as the surface was not laid out flat (")
    assert {p.name for p in tmp_path.iterdir()} == set(COLOURED)  # none of an earlier surface
    again: Any = trimesh.load(tmp_path / "mesh.obj", force="mesh")
    assert np.asarray(again.visual.vertex_colors)[:, 0].max() == round(255 * RED[0])


def test_a_surface_that_is_gone_leaves_no_files(tmp_path: Path) -> None:
    (tmp_path / "scene.json").write_text("{}")
    write_mesh(tmp_path, SolidScene(ball), SMALL)
    assert not write_mesh(tmp_path, HalfBall(0.0), SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["scene.json"]


def test_files_are_the_same_each_time(tmp_path: Path) -> None:
    scene = SolidScene(torus, two_tone)
    for folder in ("a", "b"):
        write_mesh(tmp_path / folder, scene, SMALL)
    for name in (*COLOURED, *TEXTURED):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
