"""The scene that a configuration asks for."""

from __future__ import annotations

from carv_distill.text_to_3d.options import SceneOptions

from .gaussians import GaussianScene
from .hash import HashScene
from .scene import Scene
from .voxels import VoxelScene


def build_scene(options: SceneOptions) -> Scene:
    """An untrained scene of the configured kind."""
    if options.kind == "hash":
        return HashScene(options.resolution, options.extent, options.hash)
    if options.kind == "gaussians":
        return GaussianScene(options.extent, options.gaussians)
    return VoxelScene(options.resolution, options.extent)
