"""A finished scene as files: itself, a mesh, a turntable."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
import torch.nn.functional as F
import trimesh
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from skimage.measure import marching_cubes
from torch import Tensor

from carv_distill.data.sets import to_uint8
from carv_distill.digests import check_digests
from carv_distill.errors import UserError
from carv_distill.evaluation.grids import save_grid
from carv_distill.files import atomic_file, saved_folder, write_json
from carv_distill.geometry.camera import Cameras

from .options import GaussianOptions, HashOptions, SceneOptions
from .scenes import Scene, build_scene

log = logging.getLogger(__name__)

OPAQUE = 0.5
"""The surface is where a stretch of a tenth of the cube's side lets half of the light through."""


def save_scene(folder: Path, scene: Scene, view: SceneOptions, prompt: str, step: int) -> None:
    """`scene.safetensors` and `scene.json`."""
    about = {"prompt": prompt, "step": step, "view": asdict(view)}
    with saved_folder(folder) as scratch:
        state = {name: t.detach().contiguous().cpu() for name, t in scene.state_dict().items()}
        save_file(state, scratch / "scene.safetensors")
        write_json(scratch / "scene.json", about)


def load_scene(folder: Path) -> tuple[Scene, SceneOptions, str]:
    """(scene, view, prompt) as :func:`save_scene` left them; what splats Gaussians is chosen anew (auto).

    Raises:
        UserError: a file is missing or damaged.
    """
    check_digests(folder)
    try:
        about = json.loads((folder / "scene.json").read_text(encoding="utf-8"))
        view = _view_from(about["view"])
        scene = build_scene(view)
        scene.load_state_dict(load_file(folder / "scene.safetensors"))
        prompt = str(about["prompt"])
    except (
        AttributeError,
        LookupError,
        OSError,
        RecursionError,
        RuntimeError,
        SafetensorError,
        TypeError,
        ValueError,
    ) as error:
        raise UserError(f"{folder} holds no readable scene: {' '.join(str(error).split())[:200]}") from error
    return scene.eval(), view, prompt


def _view_from(values: dict[str, Any]) -> SceneOptions:
    # Where a scene was saved without the sections of other kinds, theirs are the defaults.
    grid, gaussians = HashOptions(**values.get("hash", {})), GaussianOptions(**values.get("gaussians", {}))
    # What rendered them in training may be missing where they are shown.
    gaussians = replace(gaussians, backend="auto")
    return SceneOptions(**{**values, "hash": grid, "gaussians": gaussians})


def turntable(count: int, elevation: float = 15.0, distance: float = 1.75, fov: float = 55.0) -> Cameras:
    """`count` cameras once around, starting from the front; degrees."""
    azimuth, ones = 2 * math.pi * torch.arange(count) / count, torch.ones(count)
    return Cameras(azimuth, math.radians(elevation) * ones, distance * ones, math.radians(fov) * ones)


@torch.no_grad()
def pictures(scene: Scene, cameras: Cameras, size: int, samples: int, background: str = "grey") -> Tensor:
    """Renders without jitter, one after the other, [n, 3, S, S] in [0, 1] on the CPU."""
    like = next(scene.parameters())
    shade = "grey" if background == "random" else background
    alone = (cameras[i : i + 1].to(like) for i in range(len(cameras)))
    return torch.cat([scene.render(c, size, samples, background=shade).image.cpu() for c in alone])


def write_turntable(
    folder: Path, scene: Scene, view: SceneOptions, frames: int = 60, size: int = 128, fps: int = 20
) -> None:
    """`turntable.mp4` once around the object, and `views.png`, eight of its frames.

    Of an odd size the last row and column are there twice: video stores colours for 2 × 2 pixels (yuv420p).

    Raises:
        UserError: the video could not be written; one that was there before is kept.
    """
    images = pictures(scene, turntable(frames), size, 2 * view.samples, view.background)
    save_grid(2 * images[:: max(frames // 8, 1)][:8] - 1, folder / "views.png", columns=8)
    odd = size % 2
    padded = F.pad(images, (0, odd, 0, odd), mode="replicate")
    video = to_uint8(2 * padded - 1).permute(0, 2, 3, 1).numpy()
    try:
        data = iio.imwrite(
            "<bytes>", video, plugin="FFMPEG", extension=".mp4", fps=fps, codec="libx264", macro_block_size=2
        )
        with atomic_file(folder / "turntable.mp4") as file:
            file.write(data)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{folder / 'turntable.mp4'} could not be written ({error})") from error


@torch.no_grad()
def extract_mesh(scene: Scene, resolution: int = 96) -> trimesh.Trimesh | None:
    """The surface where density is ln 2 per tenth of the cube's side, with the field's colours; None if there
    is none.

    Source: Lorensen & Cline 1987 (marching cubes).
    """
    like = next(scene.parameters())
    line = torch.linspace(-scene.extent, scene.extent, resolution, device=like.device, dtype=like.dtype)
    points = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).view(-1, 3)
    parts = [scene(p)[0] for p in points.split(2**18)]
    density = torch.cat(parts).view(*[resolution] * 3).cpu().numpy()
    # Empty around, so that the surface is closed.
    density = np.pad(density, 1)
    level = -math.log(OPAQUE) / (0.2 * scene.extent)
    if not density.min() < level < density.max():
        return None
    spacing = 2 * scene.extent / (resolution - 1)
    vertices, faces, _, _ = marching_cubes(density, level, spacing=(spacing,) * 3)
    vertices = vertices - scene.extent - spacing
    at = torch.from_numpy(vertices.copy()).to(like)
    colour = torch.cat([scene(p)[1] for p in at.split(2**18)]).cpu().numpy()
    # Marching cubes orders faces towards greater density, meshes are seen from outside.
    return trimesh.Trimesh(vertices, faces[:, ::-1], vertex_colors=(colour * 255).round().astype(np.uint8))


def linear_bytes(rgba: np.ndarray) -> np.ndarray:
    """Bytes of linear light of sRGB's, [n, 4]; opacity stays: 128, that is 0.5, becomes 55, 0.214.

    c / 12.92 up to 0.04045, then ((c + 0.055) / 1.055)^2.4.

    Source: IEC 61966-2-1 (sRGB); the glTF 2.0 specification, 3.7.2.1 (COLOR_0).
    """
    c = rgba[:, :3] / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return np.column_stack([(255 * linear).round().astype(np.uint8), rgba[:, 3]])


def write_mesh(folder: Path, scene: Scene, resolution: int = 96) -> bool:
    """`mesh.glb` and `mesh.obj`, coloured at the vertices; without a surface it says so and gives False.

    A field's colours are pictures' sRGB, as viewers take OBJ's; glTF defines its COLOR_0 as linear.
    """
    mesh = extract_mesh(scene, resolution)
    if mesh is None:
        why = "no mesh, as the density nowhere crosses the surface's level; the field itself is written"
        log.warning("%s: %s", folder, why)
        return False
    linear = mesh.copy()
    colours: Any = linear.visual
    colours.vertex_colors = linear_bytes(colours.vertex_colors)
    for kind, coloured in (("glb", linear), ("obj", mesh)):
        data: Any = coloured.export(file_type=kind)
        with atomic_file(folder / f"mesh.{kind}") as file:
            file.write(data.encode() if isinstance(data, str) else data)
    return True
