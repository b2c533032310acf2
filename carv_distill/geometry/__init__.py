"""Cameras, and solids as they see them; scenes are seen by the same cameras."""
