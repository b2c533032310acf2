"""Which images a task learns from or is measured against."""

from __future__ import annotations

from dataclasses import dataclass

from carv_distill.options import at_least, one_of

DATA_SETS = ("digits", "solids", "cifar10", "images")
NEED_PATH = ("cifar10", "images")
"""The others are made in memory, from nothing but this package and its dependencies."""


@dataclass
class DataOptions:
    """The real images: FID's reference, and a teacher's training set."""

    name: str = one_of(DATA_SETS, "digits")
    path: str | None = None
    """cifar10: the folder that holds cifar-10-batches-py; images: a folder or zip of PNG or JPEG files."""
    flip: bool = False
    """Train on every image and its mirror image. FID's reference is the images as they are."""
    labels: bool = True
    """Without: labels are ignored, all is unconditional."""
    workers: int = at_least(0, 2)
    """Processes per rank that decode the files of `images`; sets in memory need none."""
