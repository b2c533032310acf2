"""3D Gaussians as a .ply in the layout of 3D Gaussian splatting, which viewers and editors read.

    x y z             mean μ: as everywhere here, y is up and the front looks along +z
    nx ny nz          0
    f_dc_0 … f_dc_2   colour = 0.5 + C0 f_dc, C0 = 1/(2 √π): the constant spherical harmonic
    opacity           logit of o
    scale_0 … scale_2 logarithms of the scales
    rot_0 … rot_3     quaternion w, x, y, z, of any length but 0

all float32. There is no f_rest_…: our colours are the same from all sides (degree 0). Viewers for scenes from
photographs may take y for down.

Source: Kerbl et al. 2023 (3D Gaussian splatting) and its code.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carv_distill.errors import UserError
from carv_distill.text_to_3d.scenes import GaussianScene

from .ply import read_ply, write_ply

log = logging.getLogger(__name__)

C0 = 0.5 / math.sqrt(math.pi)
PLACE, NORMAL, COLOUR = ("x", "y", "z"), ("nx", "ny", "nz"), ("f_dc_0", "f_dc_1", "f_dc_2")
OPACITY = ("opacity",)
SCALE, ROTATION = ("scale_0", "scale_1", "scale_2"), ("rot_0", "rot_1", "rot_2", "rot_3")
LAYOUT = (*PLACE, *NORMAL, *COLOUR, *OPACITY, *SCALE, *ROTATION)
NEEDED = (*PLACE, *COLOUR, *OPACITY, *SCALE, *ROTATION)
PAINT = ("red", "green", "blue")
LEAST_COLOUR = 1e-4
"""Colours are at least this far from 0 and 1, where their logits end."""


def write_gaussians(path: Path, scene: GaussianScene) -> None:
    """A scene as a .ply in the layout above."""
    v = {name: value.float().cpu() for name, value in scene.values.items()}
    columns = torch.cat(
        [
            v["means"],
            torch.zeros_like(v["means"]),
            (v["colour_logits"].sigmoid() - 0.5) / C0,
            v["opacity_logits"][:, None],
            v["log_scales"],
            v["quaternions"],
        ],
        1,
    )
    rows = np.ascontiguousarray(columns.numpy()).view([(name, "f4") for name in LAYOUT])[:, 0]
    write_ply(path, rows, "y is up")


def read_gaussians(path: Path, vertices: NDArray[np.void] | None = None) -> dict[str, Tensor]:
    """The values of a :class:`GaussianScene`'s parameters from a .ply in the layout above, float32.

    View dependence (f_rest_…) is left out, and that is said.

    Raises:
        UserError: a file that cannot be read; a property is missing or not finite; a quaternion is 0.
    """
    table = read_ply(path) if vertices is None else vertices
    if missing := [name for name in NEEDED if name not in (table.dtype.names or ())]:
        raise UserError(
            f"{path} has no property {missing[0]} of its vertices, which Gaussians need in the 3DGS layout "
            f"({', '.join(NEEDED)}); a plain point cloud has x, y, z and, if at all, red, green, blue"
        )
    quaternions = columns(path, table, ROTATION)
    if bool((zero := ~quaternions.any(1)).any()):
        raise UserError(f"{path}: vertex {int(zero.nonzero()[0, 0])} has a rotation of length 0")
    log_scales = columns(path, table, SCALE)
    if bool((vast := ~log_scales.exp().isfinite()).any()):
        row, column = vast.nonzero()[0].tolist()
        raise UserError(
            f"{path}: {SCALE[column]} of vertex {row} is {float(log_scales[row, column]):g}, which is the "
            "logarithm of no finite scale"
        )
    rest = [name for name in table.dtype.names or () if name.startswith("f_rest_")]
    if rest and any(table[name].any() for name in rest):
        log.warning("%s: its colours depend on the view (f_rest_…); their mean over all sides is taken", path)
    return {
        "means": columns(path, table, PLACE),
        "log_scales": log_scales,
        "quaternions": quaternions,
        "opacity_logits": columns(path, table, OPACITY)[:, 0],
        "colour_logits": colour_logits(0.5 + C0 * columns(path, table, COLOUR)),
    }


def columns(path: Path, table: NDArray[np.void], names: tuple[str, ...]) -> Tensor:
    """Some properties, [n, len(names)], float32.

    Raises:
        UserError: one is not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.stack([table[name].astype(np.float32) for name in names], 1)
    bad = np.argwhere(~np.isfinite(found))
    if len(bad):
        row, column = bad[0]
        value = found[row, column]
        raise UserError(f"{path}: {names[column]} of vertex {row} is {value}; all numbers must be finite")
    return torch.from_numpy(found)


def colour_logits(colour: Tensor) -> Tensor:
    """Of colours in [0, 1]; what is outside is moved to its rim."""
    return colour.clamp(LEAST_COLOUR, 1 - LEAST_COLOUR).logit()
