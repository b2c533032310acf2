"""Data sets: images in [-1, 1] with integer labels, in memory or in files."""

from carv_distill.data.digits import DIGITS, load_digits_images
from carv_distill.data.images import load_images
from carv_distill.data.sets import ByteImages, Mirrored, in_memory, originals
from carv_distill.data.shapes import PromptedImages, shape_images
from carv_distill.data.spec import ImageSet, ImageSpec, LabelledImages, from_uint8, to_uint8

__all__ = [
    "DIGITS",
    "ByteImages",
    "ImageSet",
    "ImageSpec",
    "LabelledImages",
    "Mirrored",
    "PromptedImages",
    "from_uint8",
    "in_memory",
    "load_digits_images",
    "load_images",
    "originals",
    "shape_images",
    "to_uint8",
]
