"""Which pictures a task learns from or is measured against, and the data sets by name.

A file of its own and a row of :data:`DATA_SETS` make a data set. Known without torch; what loads a set is
imported when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from carv_distill.errors import UserError
from carv_distill.options import at_least, one_of, place

if TYPE_CHECKING:
    from .sets import ImageSet


@dataclass(frozen=True)
class DataSet:
    """A set of labelled images."""

    load: Callable[[DataOptions], ImageSet]
    needs: str | None = None
    """What `data.path` must be, and how to come by it; None: made in memory, without a file."""


def _digits(options: DataOptions) -> ImageSet:
    from .digits import load_digits_images

    return load_digits_images()


def _solids(options: DataOptions) -> ImageSet:
    from .solids import labelled_solids

    return labelled_solids()


def _cifar10(options: DataOptions) -> ImageSet:
    from .cifar import load_cifar10_images

    assert options.path is not None
    return load_cifar10_images(options.path)


def _images(options: DataOptions) -> ImageSet:
    from .stored import load_stored_images

    assert options.path is not None
    return load_stored_images(options.path, options.labels, options.convert)


DATA_SETS = {
    "digits": DataSet(_digits),
    "solids": DataSet(_solids),
    "cifar10": DataSet(
        _cifar10,
        'needs the folder that holds cifar-10-batches-py; fetch it with python -c "from '
        "torchvision.datasets import CIFAR10; CIFAR10('data', download=True)\" and give data.path=data",
    ),
    "images": DataSet(
        _images,
        "needs a folder or zip of square PNG or JPEG files, as EDM's dataset_tool.py writes them; give "
        "data.path=…",
    ),
}
"""Images with labels."""
PROMPTED = ("shapes",)
"""Images with prompts, made in memory; see :func:`carv_distill.data.solids.prompted_solids`."""
IN_MEMORY = tuple(name for name, data in DATA_SETS.items() if data.needs is None)
"""The labelled sets that need no file."""


@dataclass
class DataOptions:
    """The pictures: a teacher's training set, FID's reference."""

    name: str = one_of((*DATA_SETS, *PROMPTED), "digits")
    """digits, solids, cifar10 and images have labels; shapes, coloured solids, have prompts."""
    path: str | None = place(None, resume=True)
    """cifar10: the folder that holds cifar-10-batches-py; images: a folder or zip of square PNG or JPEG files
    of one size, as EDM's dataset_tool.py writes them; those that begin with a dot, or lie below such a
    folder, are passed over."""
    flip: bool = False
    """Train on every image and its mirror image. FID's reference is the images as they are."""
    labels: bool = True
    """images: taken from a dataset.json beside them, {"labels": [["a/img0.png", 3], ...]}. Without: labels
    are ignored, all is unconditional."""
    convert: str = one_of(("none", "rgb"), "none")
    """images: rgb makes three channels of whatever a file holds: grey thrice, what is transparent over white,
    CMYK without colour profiles, 16 bits as their upper 8. none refuses what is not grey or colour of 8 bits,
    as a palette and opaque alpha are."""
    workers: int = at_least(0, 2, resume=True)
    """Processes per rank that decode the files of `images`; sets in memory need none."""
    size: int = at_least(8, 32)
    """Pixels along one side of the rendered pictures of shapes."""
    views: int = at_least(1, 66)
    """Random cameras of shapes for each of the 56 pairs of colour and solid."""

    def require_labelled(self) -> None:
        """That it is a set of labelled images, with a path where it needs one.

        Raises:
            UserError: it is none, or the path is missing, or given where none is needed.
        """
        if self.name not in DATA_SETS:
            raise UserError(
                f"data.name: no data set {self.name!r} of labelled images; allowed: {', '.join(DATA_SETS)}"
            )
        needs = DATA_SETS[self.name].needs
        if needs is None and self.path is not None:
            raise UserError(
                f"data.path: {self.path} is given, but data.name: {self.name} is made in memory "
                f"(a path goes with {', '.join(n for n in DATA_SETS if n not in IN_MEMORY)})"
            )
        self._refuse("size", "views", *(() if self.name == "images" else ("convert",)))
        if needs is not None and self.path is None:
            raise UserError(f"data.path: data.name: {self.name} {needs}")

    def require_prompted(self) -> None:
        """That it is a set of images with prompts, and says nothing that such a set does not know.

        Raises:
            UserError: it has labels, or an option of sets with labels is given.
        """
        if self.name not in PROMPTED:
            raise UserError(
                f"data.name: {self.name} has labels; a teacher of text and images learns from prompts "
                f"(allowed: {', '.join(PROMPTED)})"
            )
        self._refuse("path", "flip", "labels", "convert")

    def _refuse(self, *names: str) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            if spec.name in names and value != spec.default:
                raise UserError(
                    f"data.{spec.name}: {value} is given, but data.name: {self.name} has none; leave it out"
                )
