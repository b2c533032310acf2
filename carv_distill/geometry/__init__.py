"""Cameras, and solids as they see them; scenes are seen by the same cameras."""

from .camera import SAMPLINGS, VIEWS, Cameras, CameraSampler
from .solids import BACKGROUND, SOLIDS, Solid, trace

__all__ = ["BACKGROUND", "SAMPLINGS", "SOLIDS", "VIEWS", "CameraSampler", "Cameras", "Solid", "trace"]
