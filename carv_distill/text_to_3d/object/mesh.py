"""The surface of a scene: closed, as even as the scene's grid is fine, of one body where the scene is, of few
faces."""

from __future__ import annotations

import logging
import math

import fast_simplification
import numpy as np
import torch
import trimesh
from scipy import ndimage
from skimage.measure import marching_cubes
from torch import Tensor

from carv_distill.progress import progress
from carv_distill.text_to_3d.options import FACES, MEMORY, PART
from carv_distill.text_to_3d.scenes import Scene

from .memory import mesh_bytes, points_at_once

log = logging.getLogger(__name__)

OPAQUE = 0.5
"""The surface is where a stretch of a tenth of the cube's side lets half of the light through."""
EVENNESS = 0.75
"""Standard deviation of the Gaussian in the filter that takes from the density what is finer than the field's
own grid, in cells of that grid. A wall of one cell stays a wall, as it would up to 0.95 where the points of
the mesh were dense.
"""
ROUNDS = 8
"""Of decimation: one leaves the edges that cannot go, the next takes others for them."""


def extract_mesh(
    scene: Scene, resolution: int = 96, part: float = PART, faces: int = FACES, memory: float = MEMORY
) -> trimesh.Trimesh | None:
    """The surface where density is ln 2 per tenth of the cube's side, as it is seen from outside, without
    colours; None if there is none.

    Args:
        resolution: points of the grid along one side.
        part: least share of the volume of the largest body that a body beside it has; smaller ones float.
        faces: the most there are.
        memory: GiB that it may take.

    Source: Lorensen & Cline 1987 (marching cubes).
    """
    density = _on_grid(scene, resolution, points_at_once(scene, memory, mesh_bytes(resolution)))
    level, spacing = -math.log(OPAQUE) / (0.2 * scene.extent), 2 * scene.extent / (resolution - 1)
    _fill_cavities(density, level)
    if scene.finest:
        _even_out(density, level, EVENNESS * scene.finest / spacing)
        _fill_cavities(density, level)  # whose way out has closed
    if not density.min() < level < density.max():
        return None
    vertices, triangles, _, _ = marching_cubes(density, level, spacing=(spacing,) * 3)
    # Marching cubes orders faces towards greater density, meshes are seen from outside.
    mesh = welded(vertices - scene.extent - spacing, triangles[:, ::-1])
    return decimated(without_floaters(mesh, part), faces)


@torch.no_grad()
def _on_grid(scene: Scene, resolution: int, at_once: int) -> np.ndarray:
    """Density at `resolution`³ points of the cube, [n + 2, n + 2, n + 2]: empty around, so that the surface
    is closed."""
    like, n = next(scene.parameters()), resolution
    line = torch.linspace(-scene.extent, scene.extent, n, device=like.device, dtype=like.dtype)
    density = np.zeros((n + 2,) * 3, np.float32)
    with progress("mesh", n) as advance:
        for planes in torch.arange(n).split(max(1, at_once // n**2)):
            points = torch.stack(torch.meshgrid(line[planes], line, line, indexing="ij"), -1).view(-1, 3)
            seen = torch.cat([scene(p)[0] for p in points.split(at_once)]).view(-1, n, n)
            density[planes.numpy() + 1, 1:-1, 1:-1] = seen.float().cpu().numpy()
            advance(len(planes))
    return density


@torch.no_grad()
def colours_at(scene: Scene, points: np.ndarray, memory: float = MEMORY, name: str = "colours") -> np.ndarray:
    """The scene's colours, sRGB as in pictures, as bytes; [n, 3] → [n, 3].

    Args:
        name: of this work, for the one who waits.
    """
    at: Tensor = torch.from_numpy(np.array(points)).to(next(scene.parameters()))
    colours = []
    with progress(name, len(at)) as advance:
        for part in at.split(points_at_once(scene, memory)):
            colours.append(scene(part)[1].float().cpu())
            advance(len(part))
    seen: np.ndarray = (torch.cat(colours) * 255).round().to(torch.uint8).numpy()
    return seen


def _fill_cavities(density: np.ndarray, level: float) -> None:
    """Makes solid what is empty and has no way out, in place: no one sees it."""
    empty, _ = ndimage.label(~(density > level))
    density[(empty != empty[0, 0, 0]) & (empty != 0)] = 2 * level


def _even_out(density: np.ndarray, level: float, deviation: float) -> None:
    """Convolves min(density, 2 level) with 2 G − G ∗ G, in place, G a Gaussian.

    Voxels learn one by one, from renders that are no finer than they: what is noise in their values is steps
    and dents on the surface. As the density reaches as far below the level as above it, 0 and 2 level, a flat
    wall stays where it is however dense the object is; as the filter has no second moment, a bent one does
    but for terms of deviation⁴, where G alone would shrink a ball of the radius ρ by deviation²/ρ.

    Args:
        deviation: standard deviation of G, in points of the grid.

    Source: Taubin 1995 (smoothing without shrinkage: a step and its undoing), here of the field, so that the
    number of holes may change with what is too fine to be known.
    """
    inner = density[1:-1, 1:-1, 1:-1]
    np.minimum(inner, 2 * level, out=inner)
    ndimage.gaussian_filter(inner, deviation, output=inner, mode="constant")
    twice = ndimage.gaussian_filter(inner, deviation, mode="constant")
    inner *= 2
    inner -= twice


def without_floaters(mesh: trimesh.Trimesh, part: float) -> trimesh.Trimesh:
    """Those bodies alone that have at least the share `part` of the volume of the largest."""
    body = trimesh.graph.connected_component_labels(mesh.face_adjacency, node_count=len(mesh.faces))
    # By the divergence theorem; about the middle, where rounding is least.
    corners = mesh.triangles - mesh.centroid
    volume = np.bincount(body, np.linalg.det(corners) / 6)
    kept = (volume >= part * volume.max())[body]
    return mesh if kept.all() else welded(mesh.vertices, mesh.faces[kept])


def welded(vertices: np.ndarray, faces: np.ndarray) -> trimesh.Trimesh:
    """A mesh whose vertices differ in float32, as files keep them, and all have a face: of two in one place,
    which decimation leaves on flat sides, one."""
    used, again = np.unique(faces, return_inverse=True)
    mesh = trimesh.Trimesh(np.asarray(vertices, np.float32)[used], again.reshape(faces.shape))
    a, b, c = np.asarray(mesh.faces).T
    mesh.update_faces((a != b) & (b != c) & (c != a))
    return mesh


def decimated(mesh: trimesh.Trimesh, faces: int) -> trimesh.Trimesh:
    """The same surface of at most so many faces, closed and with as many holes as before; where its holes
    need more, it says so, and has the fewest that were reached.

    Edges go in the order of their quadric error; one whose end would pinch the surface stays.

    Source: Garland & Heckbert 1997; Dey et al. 1999 (which edges may go).
    """
    fewest = mesh
    for _ in range(ROUNDS):
        excess = len(fewest.faces) - faces
        if excess <= 0:
            return fewest
        # As many edges fewer as stayed the last time.
        target = faces if fewest is mesh else max(4, faces - excess)
        points, triangles = np.asarray(fewest.vertices, np.float32), np.asarray(fewest.faces, np.int32)
        _, _, collapses = fast_simplification.simplify(
            points, triangles, target_count=target, return_collapses=True
        )
        safe = _safe_collapses(fewest.edges_unique, collapses)
        smaller = welded(*fast_simplification.replay_simplification(points, triangles, safe)[:2])
        if smaller.euler_number != mesh.euler_number or smaller.is_watertight < mesh.is_watertight:
            break
        fewest = smaller
    if len(fewest.faces) > faces:
        log.warning(
            "the mesh has %d faces: with export.faces=%d it would not be the same surface",
            len(fewest.faces),
            faces,
        )
    return fewest


def _safe_collapses(edges: np.ndarray, collapses: np.ndarray) -> np.ndarray:
    """Those of the collapses (a, b), b into a, that leave a closed surface one of the same kind: a and b have
    an edge and just two neighbours in common, each with an edge to spare."""
    around: dict[int, set[int]] = {}
    for a, b in edges.tolist():
        around.setdefault(a, set()).add(b)
        around.setdefault(b, set()).add(a)
    safe = []
    for number, (a, b) in enumerate(collapses.tolist()):
        if b not in around.get(a, ()):
            continue
        shared = around[a] & around[b]
        if len(shared) != 2 or min(len(around[c]) for c in shared) <= 3:
            continue
        safe.append(number)
        for c in around.pop(b):
            around[c].discard(b)
            if c != a:
                around[c].add(a)
                around[a].add(c)
    kept: np.ndarray = np.ascontiguousarray(collapses[safe])
    return kept
