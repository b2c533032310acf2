"""Text-to-3D by score distillation: a field, cameras that see it, a frozen teacher that judges the views."""

from .export import build_scene, load_scene
from .module import Estimator, SDSModule
from .options import CameraOptions, HashOptions, SceneOptions, SDSOptions

__all__ = [
    "CameraOptions",
    "Estimator",
    "HashOptions",
    "SDSModule",
    "SDSOptions",
    "SceneOptions",
    "build_scene",
    "load_scene",
]
