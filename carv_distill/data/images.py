"""From a configuration to the images, and whether a teacher goes with them."""

from __future__ import annotations

from typing import overload

from carv_distill.errors import UserError
from carv_distill.teachers.teacher import Teacher

from .captioned import CaptionedSet
from .numbers import ONLY, read_numbers
from .options import CAPTIONED, DATA_SETS, DataOptions
from .sets import ImageSet, ImageSpec, LabelledImages, Mirrored, Some, Unlabelled
from .solids import PromptedImages, prompted_solids


@overload
def load_images(source: str) -> LabelledImages: ...


@overload
def load_images(source: DataOptions, wanted: bool = True) -> ImageSet: ...


def load_images(source: str | DataOptions, wanted: bool = True) -> ImageSet:
    """A data set, by the name of one that needs no file, or as a configuration describes it.

    Args:
        wanted: whether any of its images are, or only what they are like; of some sets that is known without
            their files, which then may be elsewhere: the set is empty.
    """
    options = DataOptions(source) if isinstance(source, str) else source
    options.require_labelled(wanted)
    data = DATA_SETS[options.name]
    spec = None if wanted or data.spec is None else data.spec()
    images = data.load(options) if spec is None else LabelledImages.none(spec)
    if options.only is not None and spec is None:
        images = Some(images, read_numbers(options.only, len(images), ONLY))
    if not options.labels:
        images = Unlabelled(images)
    return Mirrored(images) if options.flip else images


def load_captioned(options: DataOptions) -> CaptionedSet:
    """A set of images with captions, as a configuration describes it."""
    options.require_captioned()
    return CAPTIONED[options.name].load(options)


def load_prompted(options: DataOptions, seed: int) -> PromptedImages:
    """A set of rendered images with prompts, as a teacher's configuration describes it.

    Args:
        seed: names the cameras.
    """
    options.require_prompted()
    images = prompted_solids(options.size, options.views, seed, elevation=options.elevation)
    return images if options.only is None else images.some(read_numbers(options.only, len(images), ONLY))


def load_data(options: DataOptions, wanted: bool = True) -> ImageSet:
    """A set of images of any kind; the labels of one with captions are their numbers.

    Args:
        wanted: as for :func:`load_images`; captions are.
    """
    return load_captioned(options) if options.name in CAPTIONED else load_images(options, wanted)


def check_fit(teacher: Teacher, spec: ImageSpec, path: str) -> None:
    """Teacher and data must have one image shape, and the labels must be known to the teacher.

    Raises:
        UserError: naming what differs.
    """
    if (teacher.channels, teacher.size) != (spec.channels, spec.size):
        raise UserError(
            f"teacher.path: {path} makes {teacher.channels}×{teacher.size}×{teacher.size} images, but data "
            f"{spec.name} has {spec.channels}×{spec.size}×{spec.size}"
        )
    if teacher.labels > 1 and not spec.classes:  # of one, the null label, all images are
        raise UserError(
            f"teacher.path: {path} has {teacher.labels} class embeddings, but the images of {spec.name} have "
            "no labels (data.labels: false, or null in dataset.json); an unconditional teacher fits"
        )
    if teacher.labels not in (0, spec.classes, spec.classes + 1):
        raise UserError(
            f"teacher.path: {path} has {teacher.labels} class embeddings, but data {spec.name} has "
            f"{spec.classes} classes (allowed: 0, {spec.classes}, or {spec.classes + 1} with a null label)"
        )
    if spec.classes and teacher.classes and spec.names and teacher.classes != spec.names:
        theirs, own = ", ".join(teacher.classes), ", ".join(spec.names)
        raise UserError(
            f"teacher.path: {path} learned the classes {theirs}, in this order, but data {spec.name} "
            f"has {own}"
        )
