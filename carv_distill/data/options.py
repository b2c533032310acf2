"""Which pictures a task learns from or is measured against, and the data sets by name.

A file of its own and a row of :data:`DATA_SETS` make a data set. Known without torch; what loads a set is
imported when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from carv_distill.errors import UserError
from carv_distill.options import at_least, between, one_of, place

if TYPE_CHECKING:
    from .captioned import CaptionedSet
    from .sets import ImageSet, ImageSpec

Images = TypeVar("Images", bound="ImageSet", covariant=True)


@dataclass(frozen=True)
class DataSet(Generic[Images]):
    """A set of images, with labels or with captions."""

    load: Callable[[DataOptions], Images]
    needs: str | None = None
    """What `data.path` must be, and how to come by it; None: made in memory, without a file."""
    options: tuple[str, ...] = ()
    """What it knows of convert, elevation, size, split and views, which belong to some sets alone."""
    spec: Callable[[], ImageSpec] | None = None
    """What its images are, of a set of which that is known without its files: a run that learns from no image
    and measures against statistics does without them."""
    installed: str | None = None
    """Where a package of the system puts its files; a path may be given, and need not."""


def _digits(options: DataOptions) -> ImageSet:
    from .digits import load_digits_images

    return load_digits_images()


def _solids(options: DataOptions) -> ImageSet:
    from .solids import labelled_solids

    return labelled_solids()


def _cifar10(options: DataOptions) -> ImageSet:
    from .cifar import load_cifar10_images

    return load_cifar10_images(options.files, options.split)


def _cifar10_spec() -> ImageSpec:
    from .cifar import CIFAR10

    return CIFAR10


def _fashion_mnist(options: DataOptions) -> ImageSet:
    from .fashion import load_fashion_mnist_images

    return load_fashion_mnist_images(options.files, options.split)


def _fashion_mnist_spec() -> ImageSpec:
    from .fashion import FASHION_MNIST

    return FASHION_MNIST


def _images(options: DataOptions) -> ImageSet:
    from .stored import load_stored_images

    return load_stored_images(options.files, options.labels, options.convert)


DATA_SETS = {
    "digits": DataSet(_digits),
    "solids": DataSet(_solids),
    "cifar10": DataSet(
        _cifar10,
        'needs the folder that holds cifar-10-batches-py; fetch it with python -c "from '
        "torchvision.datasets import CIFAR10; CIFAR10('data', download=True)\" and give data.path=data",
        ("split",),
        _cifar10_spec,
    ),
    "fashion_mnist": DataSet(
        _fashion_mnist,
        "needs torchvision's files: apt install dataset-fashion-mnist puts them where they are found, or "
        'fetch them with python -c "from torchvision.datasets import FashionMNIST; '
        "FashionMNIST('data', download=True)\" and give the folder, data",
        ("split",),
        _fashion_mnist_spec,
        installed="/usr/share/datasets/fashion-mnist",  # by Debian's dataset-fashion-mnist
    ),
    "images": DataSet(
        _images,
        "needs a folder or zip of square pictures, as EDM's dataset_tool.py writes them; give data.path=…",
        ("convert",),
    ),
}
"""Images with labels."""


def _shapes(options: DataOptions) -> CaptionedSet:
    from .solids import prompted_solids

    return prompted_solids(options.size, options.views, elevation=options.elevation)


def _captioned(options: DataOptions) -> CaptionedSet:
    from .captioned import load_captioned_images

    return load_captioned_images(options.files, options.size)


CAPTIONED = {
    "shapes": DataSet(_shapes, options=("size", "views", "elevation")),
    "captioned": DataSet(
        _captioned,
        "needs a folder or zip of pictures with captions (metadata.jsonl, or a .txt beside each), "
        "or webdataset shards; give data.path=…",
        ("size",),
    ),
}
"""Images with captions; their labels are the captions' numbers."""
PROMPTED = ("shapes",)
"""Those of them that are rendered, with the prompts that a text teacher of our own learns from; see
:func:`carv_distill.data.solids.prompted_solids`."""
IN_MEMORY = tuple(name for name, data in DATA_SETS.items() if data.needs is None)
"""The labelled sets that need no file."""


@dataclass
class DataOptions:
    """The pictures: a teacher's training set, FID's reference."""

    name: str = one_of((*DATA_SETS, *CAPTIONED), "digits")
    """digits, solids, cifar10, fashion_mnist and images have labels; shapes, coloured solids, and captioned
    have captions, as prompts."""
    path: str | None = place(None, resume=True)
    """cifar10: the folder that holds cifar-10-batches-py; fashion_mnist: a folder with torchvision's files,
    plain or .gz, in it or in its FashionMNIST/raw (empty: where Debian's dataset-fashion-mnist puts them);
    images: a folder or zip of square pictures (.png, .jpg, .jpeg, .webp, .bmp) of one size, as EDM's
    dataset_tool.py writes them; captioned: a folder or zip of such files of any size with their captions in
    metadata.jsonl, metadata.csv or metadata.parquet (file_name, text), or in a .txt or .json beside each, or
    webdataset shards with these, one .tar or a folder of them. Files that begin with a dot, or lie below such
    a folder, are passed over."""
    flip: bool = False
    """Train on every image and its mirror image, where that is one too: not of digits, nor of Fashion-MNIST,
    whose shoes all point one way. FID's reference is the images as they are."""
    split: str = one_of(("train", "test"), "train")
    """Which part of cifar10 or fashion_mnist."""
    labels: bool = True
    """images: taken from a dataset.json beside them, {"labels": [["a/img0.png", 3], ...]}, or by a folder
    for each class. Without: labels are ignored, all is unconditional."""
    convert: str = one_of(("none", "rgb"), "none")
    """images: rgb makes three channels of whatever a file holds: grey thrice, what is transparent over white,
    CMYK without colour profiles, 16 bits as their upper 8. none refuses what is not grey or colour of 8 bits,
    as a palette and opaque alpha are."""
    only: str | None = place(None, content=True)
    """A file with the numbers, from 0 on, of the images that are taken, separated by blanks or line ends; all
    others are left out, as for evaluate.py lds. Of images with labels, and of a text teacher's shapes."""
    workers: int = at_least(0, 2, resume=True)
    """Processes per rank that decode the files of images and captioned; sets in memory need none."""
    size: int = at_least(8, 32)
    """Pixels along one side of the rendered pictures of shapes, and of those of captioned, whose shorter side
    is resized to it before the middle is cut out."""
    views: int = at_least(1, 66)
    """Random cameras of shapes for each of the 56 pairs of colour and solid,"""
    elevation: float = between(-10, 90, 45.0)
    """from -10 degrees up to so many; above 60 a prompt says "overhead view"."""

    @property
    def test_half(self) -> DataOptions | None:
        """The images to test by, of a set that has such; None of others, and of these themselves."""
        halved = "split" in {**DATA_SETS, **CAPTIONED}[self.name].options
        return replace(self, split="test") if halved and self.split == "train" else None

    @property
    def files(self) -> str:
        """Where the files are: at the path, or where a package of the system has put them.

        Raises:
            UserError: no path is given, and they are not installed.
        """
        data: DataSet[Any] = {**DATA_SETS, **CAPTIONED}[self.name]
        installed = data.installed is not None and Path(data.installed).is_dir()
        place = data.installed if self.path is None and installed else self.path
        if place is None:
            raise UserError(f"data.path: data.name: {self.name} {data.needs}")
        return place

    @property
    def found(self) -> bool:
        """Whether there is something where its files are looked for; of a set without files there is."""
        data: DataSet[Any] = {**DATA_SETS, **CAPTIONED}[self.name]
        place = self.path or data.installed
        return data.needs is None or (place is not None and Path(place).exists())

    def require_labelled(self, images: bool = True) -> None:
        """That it is a set of labelled images, with a path where it needs one; whether files are installed is
        seen when they are read.

        Args:
            images: whether any are wanted, or only what they are like.

        Raises:
            UserError: it is none, or the path is missing, or given where none is needed.
        """
        self._require(DATA_SETS, "labelled images", images)

    def require_captioned(self) -> None:
        """That it is a set of images with captions, with a path where it needs one.

        Raises:
            UserError: it has labels, or the path is missing, or an option is given that it does not know.
        """
        self._require(CAPTIONED, "images with captions")
        self._refuse("flip", "labels", "only")

    def require_prompted(self) -> None:
        """That it is a set of rendered images with prompts, and says nothing that such a set does not know.

        Raises:
            UserError: it is another, or an option of other sets is given.
        """
        if self.name not in PROMPTED:
            has = "files" if self.name in CAPTIONED else "labels"
            raise UserError(
                f"data.name: {self.name} has {has}; a teacher of text and images learns from rendered images "
                f"with prompts (allowed: {', '.join(PROMPTED)})"
            )
        self._refuse("path", "flip", "labels", "convert", "split")

    def _require(self, sets: Mapping[str, DataSet[Any]], what: str, images: bool = True) -> None:
        if self.name not in sets:
            raise UserError(f"data.name: no data set {self.name!r} of {what}; allowed: {', '.join(sets)}")
        data = sets[self.name]
        if data.needs is None and self.path is not None:
            allowed = ", ".join(name for name in sets if sets[name].needs)
            raise UserError(
                f"data.path: {self.path} is given, but data.name: {self.name} is made in memory "
                f"(a path goes with {allowed})"
            )
        own = ("size", "views", "elevation", "convert", "split")
        self._refuse(*(name for name in own if name not in data.options))
        if data.needs is not None and data.installed is None and (images or data.spec is None):
            _ = self.files

    def _refuse(self, *names: str) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            if spec.name in names and value != spec.default:
                raise UserError(
                    f"data.{spec.name}: {value} is given, but data.name: {self.name} has none; leave it out, "
                    f"or where a file gives it, add data.{spec.name}={_word(spec.default)}, its default"
                )


def _word(value: object) -> str:
    """As a command line writes it."""
    return "null" if value is None else str(value).lower()
