"""Cameras, and solids as they see them; scenes are seen by the same cameras."""

from .camera import AZIMUTHS, VIEWS, Cameras, CameraSampler
from .solids import BACKGROUND, SOLIDS, Solid, trace

__all__ = ["AZIMUTHS", "BACKGROUND", "SOLIDS", "VIEWS", "CameraSampler", "Cameras", "Solid", "trace"]
