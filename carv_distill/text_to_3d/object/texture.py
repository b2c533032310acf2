"""A picture around a surface: its faces laid out flat, and the scene's colours on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import trimesh
import xatlas
from PIL import Image
from scipy import ndimage

from carv_distill.text_to_3d.options import MEMORY
from carv_distill.text_to_3d.scenes import Scene

from .mesh import colours_at

PADDING = 2
"""Texels between two charts, which bilinear look-ups mix."""
BOXES_AT_ONCE = 2**21
"""Texels of the faces' bounding boxes that are looked at together."""


class AtlasError(Exception):
    """A surface could not be laid out flat."""


@dataclass(frozen=True)
class Atlas:
    """A surface laid out flat.

    Args:
        source: number of the surface's vertex that each of V vertices is; those on seams are there several
            times, [V].
        faces: numbers of these vertices, as many as the surface has, [F, 3].
        uv: where they lie, in [0, 1], from the picture's bottom left, [V, 2].
        width, height: in texels.
    """

    source: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    width: int
    height: int


def unwrapped(mesh: trimesh.Trimesh, size: int) -> Atlas:
    """The faces in charts that do not overlap, on a picture of about `size` × `size` texels.

    Raises:
        AtlasError: xatlas did not lay it out.
    """
    atlas, packing = xatlas.Atlas(), xatlas.PackOptions()
    packing.resolution, packing.padding = size, PADDING
    vertices, faces = np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.uint32)
    try:
        atlas.add_mesh(vertices, faces)
        atlas.generate(pack_options=packing)
        source, laid, uv = atlas.get_mesh(0)
    except (RuntimeError, ValueError, IndexError) as error:
        raise AtlasError(str(error)) from error
    if atlas.atlas_count != 1 or len(laid) != len(mesh.faces) or not np.isfinite(uv).all():
        raise AtlasError(f"{len(laid)} of {len(mesh.faces)} faces on {atlas.atlas_count} pictures")
    return Atlas(source, laid, uv, atlas.width, atlas.height)


def texels(atlas: Atlas) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texels whose centre is on a face: number in row-major order from the top left, face, and the weights of
    its three corners, [n], [n] and [n, 3]."""
    place = atlas.uv[atlas.faces].astype(np.float64) * (atlas.width, atlas.height)
    # Centres are at half-integers, [F, 2] of column and row from below.
    low = np.ceil(place.min(1) - 0.5).astype(np.int64).clip(0)
    wide = (np.floor(place.max(1) - 0.5).astype(np.int64) - low + 1).clip(0)
    count = wide.prod(1)
    parts = np.split(np.arange(len(count)), np.flatnonzero(np.diff(count.cumsum() // BOXES_AT_ONCE)) + 1)
    found = [_inside(place, low, wide, count, part, atlas) for part in parts]
    number, face, weight = (np.concatenate(each) for each in zip(*found, strict=True))
    return number, face, weight


def _inside(
    place: np.ndarray, low: np.ndarray, wide: np.ndarray, count: np.ndarray, part: np.ndarray, atlas: Atlas
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of some faces, from the texels of their bounding boxes."""
    face = part.repeat(count[part])
    within = np.arange(len(face)) - (count[part].cumsum() - count[part]).repeat(count[part])
    row, column = np.divmod(within, wide[face, 0].clip(1))
    column, row = column + low[face, 0], row + low[face, 1]
    a, b, c = place[face].swapaxes(0, 1)
    ab, ac, ap = b - a, c - a, np.stack([column, row], 1) + 0.5 - a
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    area[area == 0] = np.nan  # a face without area has no centre on it
    second = (ap[:, 0] * ac[:, 1] - ap[:, 1] * ac[:, 0]) / area
    third = (ab[:, 0] * ap[:, 1] - ab[:, 1] * ap[:, 0]) / area
    weight = np.stack([1 - second - third, second, third], 1)
    on = (weight >= -1e-9).all(1) & (column < atlas.width) & (row < atlas.height)
    number = (atlas.height - 1 - row) * atlas.width + column
    return number[on], face[on], weight[on]


def baked(scene: Scene, mesh: trimesh.Trimesh, atlas: Atlas, memory: float = MEMORY) -> Image.Image:
    """The scene's colours at the points of the surface that the texels are of; a texel of none has the colour
    of the nearest that has one, so that seams do not show.

    Raises:
        AtlasError: no texel is on the surface.
    """
    number, face, weight = texels(atlas)
    if not len(number):
        raise AtlasError("no texel is on a face")
    points = np.einsum("nk,nkd->nd", weight, mesh.vertices[atlas.source[atlas.faces[face]]])
    picture = np.zeros((atlas.height * atlas.width, 3), np.uint8)
    picture[number] = colours_at(scene, points, memory, "texture")
    bare = np.ones((atlas.height, atlas.width), bool)
    bare.flat[number] = False
    row, column = ndimage.distance_transform_edt(bare, return_distances=False, return_indices=True)
    return Image.fromarray(picture.reshape(atlas.height, atlas.width, 3)[row, column])


def textured(scene: Scene, mesh: trimesh.Trimesh, size: int, memory: float = MEMORY) -> trimesh.Trimesh:
    """The surface with a texture of about `size` × `size` texels; vertices on its seams are there twice.

    Raises:
        AtlasError: it could not be laid out flat.
    """
    atlas = unwrapped(mesh, size)
    picture = baked(scene, mesh, atlas, memory)
    material: Any = trimesh.visual.material.PBRMaterial(
        name="surface", baseColorTexture=picture, metallicFactor=0.0, roughnessFactor=1.0
    )
    look = trimesh.visual.TextureVisuals(uv=atlas.uv, material=material)
    return trimesh.Trimesh(mesh.vertices[atlas.source], atlas.faces, visual=look, process=False)
