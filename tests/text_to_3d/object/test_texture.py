"""A surface laid out flat, and the colours on it."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from carv_distill.geometry.solids import SOLIDS, ball
from carv_distill.text_to_3d.object import texture
from carv_distill.text_to_3d.object.mesh import extract_mesh
from carv_distill.text_to_3d.object.texture import Atlas, AtlasError, baked, texels, unwrapped
from tests.helpers.solid_scenes import SolidScene


def flat(uv: list[list[float]], faces: list[list[int]], width: int, height: int) -> Atlas:
    """An atlas by hand."""
    return Atlas(np.arange(len(uv)), np.array(faces), np.array(uv), width, height)


def test_texels_of_two_triangles_are_the_square() -> None:
    """Each of 7 × 4 texels has its centre on one of them, where its weights say, top row first."""
    corners = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    atlas = flat(corners, [[0, 1, 2], [0, 2, 3]], 7, 4)
    number, face, weight = texels(atlas)
    assert set(number.tolist()) == set(range(28))
    place = np.einsum("nk,nkd->nd", weight, atlas.uv[atlas.faces[face]])
    row, column = np.divmod(number, 7)
    assert np.allclose(place, np.stack([(column + 0.5) / 7, 1 - (row + 0.5) / 4], 1), atol=1e-12)
    assert np.allclose(weight.sum(1), 1)
    assert weight.min() > -1e-9


@pytest.mark.parametrize(
    ("corners", "count"),
    [
        ([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5]], 10),  # column + row < 4, with the diagonal
        ([[0.0, 0.5], [0.5, 0.0], [0.0, 0.0]], 10),  # turned the other way around
        ([[0.1, 0.1], [0.11, 0.1], [0.1, 0.11]], 0),  # between centres
        ([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]], 0),  # without area
        ([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], 0),  # nor length
    ],
)
def test_a_texel_is_of_a_face_where_its_centre_is(corners: list[list[float]], count: int) -> None:
    number, _, _ = texels(flat(corners, [[0, 1, 2]], 8, 8))
    assert len(number) == count
    assert all(n // 8 >= 4 and n % 8 < 4 for n in number.tolist())  # below and left


def test_texels_in_parts_are_the_texels(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = extract_mesh(SolidScene(ball), 24, faces=300)
    assert mesh is not None
    atlas = unwrapped(mesh, 96)
    whole = texels(atlas)
    monkeypatch.setattr(texture, "BOXES_AT_ONCE", 500)
    for a, b in zip(whole, texels(atlas), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("name", ["ball", "cube", "torus", "snowman"])
def test_charts_do_not_overlap(name: str) -> None:
    """A texel is of one face, but for centres on an edge; the faces are there in order, as large as on the
    surface to a factor of its own."""
    mesh = extract_mesh(SolidScene(SOLIDS[name]), 40, faces=1_000)
    assert mesh is not None
    atlas = unwrapped(mesh, 256)
    assert np.array_equal(atlas.source[atlas.faces], mesh.faces)
    assert 128 <= min(atlas.width, atlas.height) <= max(atlas.width, atlas.height) <= 512
    number, face, _ = texels(atlas)
    assert len(number) - len(np.unique(number)) <= 0.002 * len(number)
    share = len(number) / (atlas.width * atlas.height)
    assert share > 0.35
    texels_of = np.bincount(face, minlength=len(mesh.faces))
    density = texels_of / mesh.area_faces
    large = mesh.area_faces > np.median(mesh.area_faces)
    assert density[large].std() / density[large].mean() < 0.5


def test_the_point_of_a_texel_lies_on_the_surface() -> None:
    """The colours of a scene that paints each point with itself, at all texels of a face."""
    scene = SolidScene(ball, lambda p: (p + 0.8) / 1.6)
    mesh = extract_mesh(scene, 40, faces=1_000)
    assert mesh is not None
    atlas = unwrapped(mesh, 128)
    picture = np.asarray(baked(scene, mesh, atlas), float).reshape(-1, 3)
    number, _, _ = texels(atlas)
    points = picture[number] / 255 * 1.6 - 0.8
    assert np.abs(np.linalg.norm(points, axis=1) - 0.55).max() < 0.02
    # A texel of no face has the colour of one that has.
    assert set(map(tuple, picture.tolist())) == set(map(tuple, picture[number].tolist()))


def test_a_surface_of_no_size_is_not_laid_out() -> None:
    point = trimesh.Trimesh(np.zeros((3, 3)), [[0, 1, 2]], process=False)
    with pytest.raises(AtlasError):
        baked(SolidScene(ball), point, unwrapped(point, 64))
