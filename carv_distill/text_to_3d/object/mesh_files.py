"""A surface as files that viewers read: coloured at its vertices, and with a texture."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from carv_distill.files import saved_folder
from carv_distill.text_to_3d.options import ExportOptions
from carv_distill.text_to_3d.scenes import Scene

from .mesh import colours_at, extract_mesh
from .texture import AtlasError, textured

log = logging.getLogger(__name__)

COLOURED = ("mesh.glb", "mesh.obj")
TEXTURED = ("textured.glb", "textured.obj", "textured.mtl", "textured.png")


def write_mesh(folder: Path, scene: Scene, options: ExportOptions | None = None) -> bool:
    """`mesh.glb` and `mesh.obj`, coloured at the vertices, and `textured.glb` and `textured.obj` (with its
    .mtl and .png) with a texture. Without a surface it says so and gives False; one that cannot be laid out
    flat has no texture, and it says so. Files of an earlier surface do not stay beside the new one.

    A field's colours are pictures' sRGB, as viewers take OBJ's and textures; glTF defines its COLOR_0 as
    linear. They are two files because a viewer multiplies the one by the other.
    """
    o = options or ExportOptions()
    mesh = extract_mesh(scene, o.mesh, o.part, o.faces, o.memory)
    files: dict[str, bytes] = {}
    if mesh is None:
        why = "no mesh, as the density nowhere crosses the surface's level; the field itself is written"
        log.warning("%s: %s", folder, why)
    else:
        files = coloured_files(mesh, colours_at(scene, mesh.vertices, o.memory))
        if o.texture:
            try:
                files |= textured_files(textured(scene, mesh, o.texture, o.memory))
            except AtlasError as error:
                log.warning("%s: no texture, as the surface was not laid out flat (%s)", folder, error)
    if files:
        with saved_folder(folder) as scratch:
            for name, content in files.items():
                (scratch / name).write_bytes(content)
    for name in {*COLOURED, *TEXTURED} - files.keys():
        (folder / name).unlink(missing_ok=True)
    return mesh is not None


def coloured_files(mesh: trimesh.Trimesh, colours: np.ndarray) -> dict[str, bytes]:
    """By name; colours are sRGB bytes at the vertices, [V, 3]."""
    rgba = np.column_stack([colours, np.full(len(colours), 255, np.uint8)])
    glb, obj = COLOURED

    def shown(at_vertices: np.ndarray) -> Any:
        return trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=at_vertices, process=False)

    bright: bytes = shown(linear_bytes(rgba)).export(file_type="glb", tree_postprocessor=matt)
    return {glb: bright, obj: shown(rgba).export(file_type="obj").encode()}


def matt(tree: dict[str, Any]) -> None:
    """The material of paper for a glTF's surfaces, which reflects in all directions and no mirror image.

    A surface without a material is metal, and so dark wherever nothing around it is reflected.

    Source: the glTF 2.0 specification, 3.9.2 (defaults of metallicFactor and roughnessFactor are 1).
    """
    surface = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    tree["materials"] = [{"name": "surface", "pbrMetallicRoughness": surface}]
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive["material"] = 0


def textured_files(mesh: trimesh.Trimesh) -> dict[str, bytes]:
    """By name, of a mesh with a texture."""
    glb, obj, mtl, png = TEXTURED
    flat: Any = mesh.copy()
    flat.visual.material = mesh.visual.material.to_simple()  # type: ignore[union-attr]
    flat.visual.material.name = png.removesuffix(".png")
    text, parts = trimesh.exchange.obj.export_obj(flat, return_texture=True, mtl_name=mtl)
    return {glb: mesh.export(file_type="glb"), obj: text.encode(), **parts}


def linear_bytes(rgba: np.ndarray) -> np.ndarray:
    """Bytes of linear light of sRGB's, [n, 4]; opacity stays: 128, that is 0.5, becomes 55, 0.214.

    c / 12.92 up to 0.04045, then ((c + 0.055) / 1.055)^2.4.

    Source: IEC 61966-2-1 (sRGB); the glTF 2.0 specification, 3.7.2.1 (COLOR_0).
    """
    c = rgba[:, :3] / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return np.column_stack([(255 * linear).round().astype(np.uint8), rgba[:, 3]])
