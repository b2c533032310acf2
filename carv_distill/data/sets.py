"""What a set of images is, sets in memory and sets made of other sets; the one rounding to bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageSpec:
    """The shape of a data set: square images and a number of classes."""

    name: str
    """What the configuration calls the data set."""
    channels: int
    """C, 1 for greyscale or 3 for RGB."""
    size: int
    """H = W in pixels."""
    classes: int
    """Number of labels, 0..classes-1; 0 means that the images carry no label."""
    names: tuple[str, ...] = ()
    """Of the classes, where the data tell them."""

    @property
    def words(self) -> tuple[str, ...]:
        """What the classes are called: their names, or without them their numbers."""
        return self.names or tuple(map(str, range(self.classes)))

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
        """Some of the images, int64 [n] in 0..N-1 → float32 [n, C, H, W] in [-1, 1] and labels int64 [n].

        Labels are 0 where `spec.classes` is. Images that were bytes x are x / 127.5 - 1, which
        :func:`to_uint8` turns back into x. A file that cannot be read, or is not as the others, is a
        UserError that names it.
        """
        ...


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images in memory."""

    images: Tensor
    """float32 [N, C, H, W] in [-1, 1]; or bytes, uint8, converted batch by batch."""
    labels: Tensor
    """int64 [N] in 0..classes-1."""
    spec: ImageSpec

    decodes = False

    @classmethod
    def none(cls, spec: ImageSpec) -> Self:
        """No image, for those who want to know what images are like."""
        return cls(torch.empty(0, *spec.shape), torch.empty(0, dtype=torch.int64), spec)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        images = self.images[indices]
        return from_uint8(images) if images.dtype == torch.uint8 else images, self.labels[indices]


@dataclass(frozen=True, eq=False)
class _Derived:
    """Images of another set."""

    plain: ImageSet

    @property
    def spec(self) -> ImageSpec:
        return self.plain.spec

    @property
    def decodes(self) -> bool:
        return self.plain.decodes

    def __len__(self) -> int:
        return len(self.plain)


class Mirrored(_Derived):
    """Twice the set: images 0..N-1 as they are, N..2N-1 with left and right exchanged and the same labels.

    Source: `xflip` of EDM's data sets (Karras et al., 2022), whose reference statistics are of `plain` alone.
    """

    def __len__(self) -> int:
        return 2 * len(self.plain)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        count = len(self.plain)
        images, labels = self.plain.batch(indices % count)
        return torch.where((indices >= count)[:, None, None, None], images.flip(-1), images), labels


@dataclass(frozen=True, eq=False)
class Some(_Derived):
    """Some images of a set, in the order of their numbers, int64 [n]."""

    numbers: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.plain.batch(self.numbers[indices])


class Unlabelled(_Derived):
    """The same images with label 0 and no classes."""

    @property
    def spec(self) -> ImageSpec:
        return replace(self.plain.spec, classes=0, names=())

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = self.plain.batch(indices)
        return images, torch.zeros_like(labels)


def originals(images: ImageSet) -> ImageSet:
    """The images without mirror images: what a generator is measured against."""
    return images.plain if isinstance(images, Mirrored) else images


def in_memory(images: ImageSet) -> LabelledImages:
    """All the images at once, 4 bytes a value; those that are in memory as such are not copied."""
    if isinstance(images, LabelledImages) and images.images.is_floating_point():
        return images
    return LabelledImages(*images.batch(torch.arange(len(images))), images.spec)


def to_uint8(images: Tensor) -> Tensor:
    """floor(clip(127.5 x + 128, 0, 255)) of floating point images of any shape, uint8.

    Every image that enters a metric or a file goes through here, real or generated, so that both sides of a
    comparison are rounded alike.

    Source: EDM's `generate.py` (Karras et al., 2022).
    """
    # float32 before the product: bfloat16 has 8 bits of mantissa and would merge neighbouring grey levels
    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def from_uint8(pixels: Tensor) -> Tensor:
    """x / 127.5 - 1, float32 in [-1, 1] of bytes of any shape; :func:`to_uint8` undoes it exactly."""
    return pixels.to(torch.float32) / 127.5 - 1
