"""A scene in a folder: its weights, and what is needed to see it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from carv_distill.digests import check_digests
from carv_distill.errors import UserError
from carv_distill.files import saved_folder, write_json

from .object.splat_files import write_gaussians
from .options import DensifyOptions, GaussianOptions, HashOptions, SceneOptions
from .rendering_options import BackgroundOptions, OccupancyOptions, ShadingOptions
from .scenes import GaussianScene, Scene, build_scene

PARTS: dict[str, Callable[..., Any]] = {
    "shading": ShadingOptions,
    "background_network": BackgroundOptions,
    "occupancy": OccupancyOptions,
}


def save_scene(folder: Path, scene: Scene, view: SceneOptions, prompt: str, step: int) -> None:
    """`scene.safetensors` and `scene.json`; of Gaussians `scene.ply` besides."""
    view = replace(view, gaussians=replace(view.gaussians, start=None))  # a place on this machine
    about = {"prompt": prompt, "step": step, "view": asdict(view)}
    with saved_folder(folder) as scratch:
        state = {name: t.detach().contiguous().cpu() for name, t in scene.state_dict().items()}
        save_file(state, scratch / "scene.safetensors")
        write_json(scratch / "scene.json", about)
        if isinstance(scene, GaussianScene):
            write_gaussians(scratch / "scene.ply", scene)


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
        if isinstance(scene, GaussianScene):
            view = replace(view, gaussians=replace(view.gaussians, count=len(scene.means)))
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
    grid, given = HashOptions(**values.get("hash", {})), values.get("gaussians", {})
    # What rendered them in training, and what they began as, may be missing where they are shown.
    given = {**given, "densify": DensifyOptions(**given.get("densify", {})), "backend": "auto", "start": None}
    gaussians = GaussianOptions(**given)
    parts = {name: kind(**values.get(name, {})) for name, kind in PARTS.items()}
    return SceneOptions(**{**values, "hash": grid, "gaussians": gaussians, **parts})
