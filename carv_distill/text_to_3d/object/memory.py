"""The memory of an export: how much is worked through at once, and what cannot fit."""

from __future__ import annotations

from carv_distill.errors import UserError
from carv_distill.text_to_3d.options import ExportOptions
from carv_distill.text_to_3d.rendering import CELL_BYTES
from carv_distill.text_to_3d.scenes import Scene

GIB = 2**30
PIXEL_BYTES = 160
"""Of a picture in all its stages, with the sheet of eight of them."""
GRID_BYTES = 16
"""Of a point of the mesh's grid: its density, and which part of space it is in."""
FACE_BYTES, FACES = 400, 4
"""Of a face of the mesh, and how many there are for each of the squares on the cube's side."""
TEXEL_BYTES = 40
"""Of the texture."""
SEARCH = 1 / 4
"""Of the memory, what is kept for empty space: for the search, and then for its cells and for lists of the
points in them, a tenth of a picture's own at most."""
AT_ONCE = 2**26
"""Bytes that are enough for one piece on a CPU: larger ones are slower, as their memory is fetched anew each
time. Small ones would leave a GPU waiting for its kernels' starts."""


def rows_at_once(scene: Scene, size: int, samples: int, memory: float) -> int:
    """Rows of a `size` × `size` picture to render together in `memory` GiB, from 1 to all of them."""
    held, row = _picture(scene, size, samples)
    if row == 0:
        return size
    return min(size, max(1, int(_piece(scene, memory * GIB - PIXEL_BYTES * size**2, held) // row)))


def most_cells(memory: float) -> int:
    """Cells along one side of a grid of empty space that takes SEARCH of `memory` GiB."""
    return int((SEARCH * memory * GIB / CELL_BYTES) ** (1 / 3) + 1e-6)


def points_at_once(scene: Scene, memory: float, held: int = 0) -> int:
    """Points to ask for density and colour together in `memory` GiB beside `held` bytes; at least one."""
    piece = _piece(scene, memory * GIB - held, scene.held_bytes * _wide(scene))
    return max(1, int(piece // (_wide(scene) * (scene.point_bytes + 64))))


def _wide(scene: Scene) -> int:
    """1 for a scene in float32, 2 in float64."""
    return max(1, next(scene.parameters()).element_size() // 4)


def _picture(scene: Scene, size: int, samples: int) -> tuple[int, int]:
    held, row = scene.picture_bytes(size, samples)
    return held * _wide(scene), row * _wide(scene)


def _piece(scene: Scene, left: float, held: int) -> float:
    """Bytes of a piece of the work, of those that are left for it and what each piece holds again."""
    if next(scene.parameters()).device.type != "cpu":
        return left - held
    return min(left - held, max(AT_ONCE, 4 * held))


def mesh_bytes(resolution: int) -> int:
    """Of a grid of `resolution` points along one side, and a surface in it."""
    return GRID_BYTES * (resolution + 2) ** 3 + FACE_BYTES * FACES * resolution**2


def check_memory(options: ExportOptions, scene: Scene, samples: int) -> None:
    """That pictures, mesh and texture fit into ``export.memory``.

    Raises:
        UserError: one does not, even in the smallest pieces; it names the largest, and what would do.
    """
    held, row = _picture(scene, options.size, samples)
    slab = _wide(scene) * (scene.held_bytes + options.mesh**2 * (scene.point_bytes + 64))
    needs = {
        "size": (held + row + PIXEL_BYTES * options.size**2, "a picture of so many pixels"),
        "mesh": (slab + mesh_bytes(options.mesh), "a mesh of so many points"),
        "texture": (TEXEL_BYTES * options.texture**2, "a texture of so many pixels"),
    }
    key, (most, what) = max(needs.items(), key=lambda need: need[1])
    if most > options.memory * GIB:
        raise UserError(
            f"export.{key}: {getattr(options, key)}: {what} along one side takes {most / GIB:.2g} GiB, above "
            f"export.memory, {options.memory:g}; give a smaller one, or "
            f"export.memory={most / GIB * 1.05 + 0.01:.2f}"
        )
