"""What a set of images is, and the one rounding from [-1, 1] to bytes."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageSpec:
    """The shape of a data set: square images and a number of classes.

    Attributes:
        name: what the configuration calls the data set.
        channels: C, 1 for greyscale or 3 for RGB.
        size: H = W in pixels.
        classes: number of labels, 0..classes-1; 0 means that the images carry no label.
    """

    name: str
    channels: int
    size: int
    classes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.channels, self.size, self.size


class ImageSet(Protocol):
    """A data set, wherever its images lie."""

    @property
    def spec(self) -> ImageSpec:
        """Shape, name and number of classes."""
        ...

    @property
    def decodes(self) -> bool:
        """Whether :meth:`batch` reads and decodes files, so that worker processes are worth their while."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Some of the images, int64 [n] in 0..N-1 -> float32 [n, C, H, W] in [-1, 1] and labels int64 [n].

        Labels are 0 where `spec.classes` is. Images that were bytes x are x / 127.5 - 1, which
        :func:`to_uint8` turns back into x.

        Raises:
            UserError: a file that cannot be read, or is not as the others; the message names it.
        """
        ...


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """An :class:`ImageSet` of floating point images in memory.

    Attributes:
        images: float32 [N, C, H, W] in [-1, 1].
        labels: int64 [N] in 0..classes-1.
        spec: the shape and the name.
    """

    images: Tensor
    labels: Tensor
    spec: ImageSpec

    decodes = False

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels of some indices; see :meth:`ImageSet.batch`."""
        return self.images[indices], self.labels[indices]

    def to_uint8(self) -> Tensor:
        """The images as bytes, uint8 [N, C, H, W]; see :func:`to_uint8`."""
        return to_uint8(self.images)


def to_uint8(images: Tensor) -> Tensor:
    """floor(clip(127.5 x + 128, 0, 255)), the rounding of EDM's `generate.py` (Karras et al., 2022).

    Every image that enters a metric or a file goes through here, real or generated, so that both sides
    of a comparison are rounded alike.

    Args:
        images: floating point, any shape; values outside [-1, 1] are clipped.

    Returns:
        uint8, same shape.
    """
    # float32 before the product: bfloat16 has 8 bits of mantissa and would merge neighbouring grey levels
    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def from_uint8(pixels: Tensor) -> Tensor:
    """x / 127.5 - 1, float32 in [-1, 1] of bytes of any shape; :func:`to_uint8` undoes it exactly."""
    return pixels.to(torch.float32) / 127.5 - 1
