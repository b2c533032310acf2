"""Scenes: a file for each kind; what all have in common is in `scene.py`."""

from .build import build_scene
from .density_control import DensityControl
from .gaussians import GaussianScene
from .hash import HashScene
from .scene import Scene, blob
from .voxels import VoxelScene

__all__ = ["DensityControl", "GaussianScene", "HashScene", "Scene", "VoxelScene", "blob", "build_scene"]
