"""Sets made of other sets or of bytes in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .spec import ImageSet, ImageSpec, LabelledImages, from_uint8


@dataclass(frozen=True, eq=False)
class ByteImages:
    """An :class:`ImageSet` of bytes in memory.

    Attributes:
        pixels: uint8 [N, C, H, W].
        labels: int64 [N] in 0..classes-1.
        spec: the shape and the name.
    """

    pixels: Tensor
    labels: Tensor
    spec: ImageSpec

    decodes = False

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels of some indices; see :meth:`ImageSet.batch`."""
        return from_uint8(self.pixels[indices]), self.labels[indices]


@dataclass(frozen=True, eq=False)
class Mirrored:
    """Twice the set: images 0..N-1 as they are, N..2N-1 with left and right exchanged.

    Attributes:
        plain: the N images.

    Source:
        `xflip` of EDM's data sets (Karras et al., 2022), whose reference statistics are of `plain` alone.
    """

    plain: ImageSet

    @property
    def spec(self) -> ImageSpec:
        """Of the images; a mirror image has the label of its original."""
        return self.plain.spec

    @property
    def decodes(self) -> bool:
        """As of the images."""
        return self.plain.decodes

    def __len__(self) -> int:
        return 2 * len(self.plain)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels of some indices; see :meth:`ImageSet.batch`."""
        count = len(self.plain)
        images, labels = self.plain.batch(indices % count)
        return torch.where((indices >= count)[:, None, None, None], images.flip(-1), images), labels


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """The same images with label 0 and no classes.

    Attributes:
        labelled: the images with their labels.
    """

    labelled: ImageSet

    @property
    def spec(self) -> ImageSpec:
        """As of the images, with `classes` 0."""
        return replace(self.labelled.spec, classes=0)

    @property
    def decodes(self) -> bool:
        """As of the images."""
        return self.labelled.decodes

    def __len__(self) -> int:
        return len(self.labelled)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images of some indices, and zeros; see :meth:`ImageSet.batch`."""
        images, labels = self.labelled.batch(indices)
        return images, torch.zeros_like(labels)


def originals(images: ImageSet) -> ImageSet:
    """The images without mirror images: what a generator is measured against."""
    return images.plain if isinstance(images, Mirrored) else images


def in_memory(images: ImageSet) -> LabelledImages:
    """All the images at once, 4 bytes a value; those that are in memory as such are not copied.

    Raises:
        UserError: a file that cannot be read.
    """
    if isinstance(images, LabelledImages):
        return images
    return LabelledImages(*images.batch(torch.arange(len(images))), images.spec)
