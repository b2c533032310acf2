"""Text-to-3D by score distillation: a scene, cameras that see it, a frozen teacher that judges the views."""

from carv_distill.options.sds import CameraOptions, GaussianOptions, HashOptions, SceneOptions, SDSOptions

from .export import build_scene, load_scene
from .levels import Estimator
from .module import SDSModule

__all__ = [
    "CameraOptions",
    "Estimator",
    "GaussianOptions",
    "HashOptions",
    "SDSModule",
    "SDSOptions",
    "SceneOptions",
    "build_scene",
    "load_scene",
]
