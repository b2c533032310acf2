"""Pictures of any size with captions, decoded when they are asked for and cropped to squares."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from carv_distill.errors import UserError

from .captions import TEXT_FILES, read_captions
from .pictures import open_picture, upright_picture
from .sets import ImageSet, ImageSpec, from_uint8
from .shards import COMPRESSED, Shards, TarShards
from .storage import OTHER_PICTURES, SUFFIXES, FolderFiles, Storage, ZipFiles
from .stored import spread


class PromptedSet(Protocol):
    """What pictures can be made of: captions, each as often as a set has it."""

    @property
    def captions(self) -> Sequence[str]:
        """The distinct captions, in the order in which the images have them first."""
        ...

    @property
    def labels(self) -> Tensor:
        """int64 [N], each image's caption, or the number of each prompt of a list."""
        ...

    @property
    def objects(self) -> Sequence[str]:
        """What each caption is of: the caption itself, or, of a rendered one, without the view."""
        ...


class CaptionedSet(PromptedSet, ImageSet, Protocol):
    """An :class:`~.sets.ImageSet` whose labels are numbers of captions: `captions[label]`.

    What carries integer labels thus carries captions. `spec.classes` is the number of captions.
    """

    def fingerprint(self) -> str:
        """Hexadecimal digits of what the images are made of; captions do not enter."""
        ...


class PromptList:
    """A :class:`PromptedSet` of prompts alone."""

    def __init__(self, prompts: Sequence[str]) -> None:
        self.captions, self.labels = number_captions(prompts)

    @property
    def objects(self) -> list[str]:
        return self.captions


def number_captions(texts: Sequence[str]) -> tuple[list[str], Tensor]:
    """The distinct ones in the order of their first place, and the number of each text, int64 [N]."""
    numbers: dict[str, int] = {}
    labels = [numbers.setdefault(text, len(numbers)) for text in texts]
    return list(numbers), torch.tensor(labels, dtype=torch.int64)


class CaptionedImages:
    """A :class:`CaptionedSet` of files.

    Args:
        texts: the caption of each picture.
        size: S; see :func:`square`.
    """

    decodes = True

    def __init__(self, storage: Storage, texts: Sequence[str], size: int) -> None:
        self.storage = storage
        self.captions, self.labels = number_captions(texts)
        self.spec = ImageSpec(storage.path.stem, channels=3, size=size, classes=len(self.captions))

    @property
    def objects(self) -> list[str]:
        return self.captions

    def __len__(self) -> int:
        return len(self.storage)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        pixels = torch.stack([self.pixels(int(i)) for i in indices])
        return from_uint8(pixels), self.labels[indices]

    def pixels(self, number: int) -> Tensor:
        """One image, uint8 [3, S, S].

        Raises:
            UserError: it cannot be read.
        """
        where = f"{self.storage.path}: {self.storage.name(number)}"
        picture = upright_picture(open_picture(self.storage.read(number), where), where, convert="rgb")
        return torch.from_numpy(np.array(square(picture, self.spec.size))).permute(2, 0, 1)

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of what the images are made of: S, the files' names, lengths and times
        (in a zip their checksums), and the content of some from all parts of the set, as reading all would
        take hours. Captions do not enter."""
        hashed = hashlib.blake2b(f"{self.spec.size}".encode(), digest_size=8)
        for number in range(len(self)):
            name = self.storage.name(number).encode("utf-8", "surrogateescape")
            hashed.update(b"%b\0%d %d\n" % (name, self.storage.size(number), self.storage.stamp(number)))
        for number in spread(len(self)):
            hashed.update(self.storage.read(number))
        return hashed.hexdigest()


def square(picture: Image.Image, size: int) -> Image.Image:
    """The middle square, its side that of the shorter one, resized to S × S pixels; a smaller one grows.

    Lanczos' filter, widened where pixels are merged, against aliasing. It sees what lies beyond the square
    too: as if the whole were resized and then cropped, but for the rounding of the longer side.

    Source: resize and centre crop of diffusers' `train_text_to_image.py`.
    """
    return ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)


def load_captioned_images(path: str, size: int) -> CaptionedImages:
    """The pictures (:data:`~.storage.SUFFIXES`) of a folder, nested or not, of a zip, or of webdataset shards
    (`*.tar`, one or a folder of them), in the order of their names, with the captions of
    :func:`~.captions.read_captions`.

    Captions are all read here, and some pictures of all parts of the set; the others as they are wanted.

    Args:
        size: S; see :func:`square`.

    Raises:
        UserError: nothing there, no pictures in it, a picture without caption, or one that cannot be read.
    """
    pictures, texts = _open(Path(path))
    if not len(pictures):
        raise UserError(f"data.path: {path} holds no pictures ({', '.join(SUFFIXES)}) and no shards (.tar)")
    found = CaptionedImages(pictures, read_captions(pictures, texts), size)
    for number in spread(len(pictures)):
        found.pixels(number)
    return found


def _open(place: Path) -> tuple[Storage, Storage]:
    """Pictures, and the files that may hold captions."""
    if not place.is_dir() and not place.is_file():
        raise UserError(
            f"data.path: {place} does not exist; a folder or zip of pictures ({', '.join(SUFFIXES)}) "
            "with captions, or webdataset shards, are needed"
        )
    if place.is_dir():
        pictures, tars = FolderFiles(place), FolderFiles(place, (".tar", *COMPRESSED))
        files = [place / tars.name(number) for number in range(len(tars))]
        if files and len(pictures):
            raise UserError(f"data.path: {place} holds pictures and shards ({tars.name(0)}); give one kind")
        if not files:
            return pictures, FolderFiles(place, TEXT_FILES)
    elif place.name.lower().endswith((".tar", *COMPRESSED)):
        files = [place]
    else:
        return ZipFiles(place), ZipFiles(place, TEXT_FILES)
    if packed := [file for file in files if file.name.lower().endswith(COMPRESSED)]:
        raise UserError(
            f"data.path: {packed[0]} is compressed; unpack it to a .tar, as pictures are read out of order"
        )
    shards = Shards.scan(place, files, (*SUFFIXES, *OTHER_PICTURES, *TEXT_FILES))
    return TarShards(shards), TarShards(shards, TEXT_FILES)
