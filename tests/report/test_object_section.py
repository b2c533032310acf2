"""The object in a page."""

from __future__ import annotations

import base64
import html
import re

import numpy as np
import pytest

from carv_distill.report.object_section import viewer
from carv_distill.text_to_3d.object.mesh_files import coloured_files
from tests.helpers.glb import glb_tree

trimesh = pytest.importorskip("trimesh")


def test_the_viewer_has_the_colours_and_the_material_of_the_file() -> None:
    box = trimesh.creation.box((1, 0.5, 0.2))
    glb = coloured_files(box, np.full((8, 3), (30, 120, 60), np.uint8))["mesh.glb"]
    page = html.unescape("".join(viewer(glb)))
    embedded = [base64.b64decode(text) for text in re.findall(r"[A-Za-z0-9+/]{200,}={0,2}", page)]
    (shown,) = (glb_tree(data) for data in embedded if data.startswith(b"glTF"))
    (primitive,) = shown["meshes"][0]["primitives"]
    assert "COLOR_0" in primitive["attributes"]
    surface = shown["materials"][primitive["material"]]["pbrMetallicRoughness"]
    assert (surface["metallicFactor"], surface["roughnessFactor"]) == (0.0, 1.0)
