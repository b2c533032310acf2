"""A miniature Stable Diffusion that a laptop trains, so that text-to-3D runs offline on the real classes."""

from carv_distill.options.text_teacher import TextTeacherOptions

from .module import TextTeacherModule
from .networks import TextTeacherNetworks, build_networks

__all__ = ["TextTeacherModule", "TextTeacherNetworks", "TextTeacherOptions", "build_networks"]
