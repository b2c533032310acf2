"""Data sets as tensors in [-1, 1], with integer labels."""

from carv_distill.data.digits import DIGITS, load_digits_images
from carv_distill.data.images import load_images
from carv_distill.data.shapes import PromptedImages, shape_images
from carv_distill.data.spec import ImageSpec, LabelledImages, to_uint8

__all__ = [
    "DIGITS",
    "ImageSpec",
    "LabelledImages",
    "PromptedImages",
    "load_digits_images",
    "load_images",
    "shape_images",
    "to_uint8",
]
