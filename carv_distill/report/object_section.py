"""What a page shows of an object of text-to-3D."""

from __future__ import annotations

import importlib.util
import math

from markupsafe import Markup

from . import blocks
from .files import RunFiles
from .page import Section

LARGEST = 2_000_000
"""Bytes of a mesh that the page takes in, at most."""
AMBIENT = 0.35
"""Share of the viewer's light that comes from everywhere; the rest comes from where one looks from."""
LOOK = f"""
if (THREE.sRGBEncoding) renderer.outputEncoding = THREE.sRGBEncoding;
tracklight.intensity = {1 - AMBIENT};
scene.add(new THREE.AmbientLight(0xffffff, {AMBIENT}));
const resized = onWindowResize;
let first;
onWindowResize = () => {{
  first ??= [Math.tan(camera.fov * Math.PI / 360), camera.aspect];
  const half = first[0] * Math.max(1, first[1] * window.innerHeight / window.innerWidth);
  camera.fov = Math.atan(half) * 360 / Math.PI;
  resized();
}};
"""
"""What makes the viewer show colours as they are where the surface faces it. Its three.js (r140) reckons in
linear light, as glTF has it, and would write that on the screen, which shows sRGB: 0.21 for 0.5, and so
nearly black. From r152 on three.js encodes by itself. Its camera's angle of view is that of the window's
height; in one narrower than the camera's picture the object would be cut off at its sides."""
PAD = 1.05
"""Of its distance, from which its box is seen whole."""
ANGLES = math.radians(-30), math.radians(30), 0.0
"""Of the first view's camera about x and then y: from above, and from one side of the front."""


def object_section(run: RunFiles) -> Section | None:
    """The mesh to turn, the film and the views; without scripts the last two are there."""
    if not (run.folder / "object").is_dir():
        return None
    parts: list[Markup] = []
    mesh = run.bytes_of("object", "mesh.glb")
    if mesh is None:
        parts.append(
            blocks.missing(
                "There is no mesh yet; the end of the run makes one, and python evaluate.py export."
            )
        )
    elif len(mesh) > LARGEST:
        parts.append(
            blocks.missing(
                f"object/mesh.glb has {len(mesh) / 1e6:.1f} MB, too much for this page; open it beside."
            )
        )
    elif importlib.util.find_spec("trimesh") is None:
        parts.append(blocks.missing("To turn the object here: pip install 'carv-distill[text-to-3d]'."))
    else:
        parts += viewer(mesh)
    if (film := run.bytes_of("object", "turntable.mp4")) is not None:
        parts.append(blocks.video(film, "The object, turning"))
    if (views := run.bytes_of("object", "views.png")) is not None:
        parts.append(
            blocks.image(views, "Views from around, from two heights, on each background", pixels=True)
        )
    return Section("Object", parts)


def viewer(glb: bytes) -> list[Markup]:
    """A mesh that turns under the pointer, by the three.js that trimesh brings, and its facts."""
    import io

    import trimesh
    from trimesh.scene.cameras import look_at
    from trimesh.viewer.notebook import scene_to_html

    scene = trimesh.load_scene(io.BytesIO(glb), file_type="glb")
    meshes = list(scene.geometry.values())
    whole = trimesh.util.concatenate(meshes) if len(meshes) > 1 else meshes[0]
    whole = whole.copy()
    whole.merge_vertices(merge_tex=True, merge_norm=True)
    facts = {
        "vertices": f"{len(whole.vertices):,}",
        "faces": f"{len(whole.faces):,}",
        "bodies": int(whole.body_count),
        "Euler number": int(whole.euler_number),
        "watertight": "yes" if whole.is_watertight else "no",
    }

    turned = trimesh.transformations.euler_matrix(*ANGLES)
    corners = trimesh.bounds.corners(scene.bounds)
    scene.camera_transform = look_at(corners, scene.camera.fov, turned, pad=PAD)
    page, _, end = scene_to_html(scene).rpartition("</body>")
    lit = f"{page}<script>{LOOK}</script></body>{end}"
    return [
        blocks.frame(lit, "The object as a mesh, once it has loaded: drag to turn it"),
        blocks.facts(facts),
    ]
