"""Labelled pictures of coloured solids: a colour data set that needs no file."""

from __future__ import annotations

import torch

from carv_distill.carv import stream
from carv_distill.geometry.solids import SOLIDS, trace

from .shapes import CAMERAS, COLOURS
from .spec import ImageSpec, LabelledImages

SIZE = 32


def load_solids_images(views: int = 64) -> LabelledImages:
    """Each of 8 solids in each of 8 colours from random cameras; the label is the solid.

    Args:
        views: cameras of each pair of solid and colour, V.

    Returns:
        images float32 [64 V, 3, 32, 32] in [-1, 1] and labels int64 [64 V] in 0..7, in the order of
        :data:`carv_distill.geometry.SOLIDS`. They are a function of V alone; rendering takes seconds.
    """
    images, labels = [], []
    for label, (name, solid) in enumerate(SOLIDS.items()):
        for colour, rgb in COLOURS.items():
            cameras = CAMERAS.sample(views, stream("solids", colour, name))
            images.append(2 * trace(solid, rgb, cameras, SIZE) - 1)
            labels += [label] * views
    spec = ImageSpec("solids", channels=3, size=SIZE, classes=len(SOLIDS))
    return LabelledImages(torch.cat(images), torch.tensor(labels), spec)
