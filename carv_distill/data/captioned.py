"""Pictures and clips with captions in folders, zips and shards; pictures of any size, decoded when they are
asked for and cropped to squares."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from carv_distill.errors import UserError

from .captions import TEXTS, read_captions
from .pictures import open_picture, upright_picture
from .sets import ImageSet, ImageSpec, from_uint8
from .shards import COMPRESSED, Shards, TarShards
from .storage import CLIPS, PICTURES, FileKind, FolderFiles, Storage, ZipFiles
from .stored import spread

_SHARDS = FileKind("shard", (".tar", *COMPRESSED))


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
    """A :class:`PromptedSet` of prompts alone.

    Args:
        name: of the list, for reports.
    """

    def __init__(self, prompts: Sequence[str], name: str = "prompts") -> None:
        self.name = name
        self.captions, self.labels = number_captions(prompts)

    @property
    def objects(self) -> list[str]:
        return self.captions


def number_captions(texts: Sequence[str]) -> tuple[list[str], Tensor]:
    """The distinct ones in the order of their first place, and the number of each text, int64 [N]."""
    numbers: dict[str, int] = {}
    labels = [numbers.setdefault(text, len(numbers)) for text in texts]
    return list(numbers), torch.tensor(labels, dtype=torch.int64)


class CaptionedFiles(ABC):
    """Files with a caption each, whose labels are numbers of captions.

    Args:
        texts: the caption of each file.
    """

    decodes = True

    def __init__(self, storage: Storage, texts: Sequence[str]) -> None:
        self.storage = storage
        self.captions, self.labels = number_captions(texts)

    @property
    def objects(self) -> list[str]:
        return self.captions

    def __len__(self) -> int:
        return len(self.storage)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        pixels = torch.stack([self.pixels(int(i)) for i in indices])
        return from_uint8(pixels), self.labels[indices]

    @abstractmethod
    def pixels(self, number: int) -> Tensor:
        """What one file holds, uint8.

        Raises:
            UserError: it cannot be read.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of what the pixels are made of. Captions do not enter."""

    def _where(self, number: int) -> str:
        return f"{self.storage.path}: {self.storage.name(number)}"

    def _fingerprint(self, settings: str, most: int = -1) -> str:
        """Of the settings, the files' names, lengths and times (in a zip their checksums), and the content of
        some from all parts of the set, as reading all would take hours.

        Args:
            most: bytes of a content that are read; all where it is negative.
        """
        hashed = hashlib.blake2b(settings.encode(), digest_size=8)
        for number in range(len(self)):
            name = self.storage.name(number).encode("utf-8", "surrogateescape")
            hashed.update(b"%b\0%d %d\n" % (name, self.storage.size(number), self.storage.stamp(number)))
        for number in spread(len(self)):
            with self.storage.open(number) as file:
                hashed.update(file.read(most))
        return hashed.hexdigest()


class CaptionedImages(CaptionedFiles):
    """A :class:`CaptionedSet` of pictures.

    Args:
        texts: the caption of each picture.
        size: S; see :func:`square`.
    """

    def __init__(self, storage: Storage, texts: Sequence[str], size: int) -> None:
        super().__init__(storage, texts)
        self.spec = ImageSpec(storage.path.stem, channels=3, size=size, classes=len(self.captions))

    def pixels(self, number: int) -> Tensor:
        """One image, uint8 [3, S, S]."""
        where = self._where(number)
        picture = upright_picture(open_picture(self.storage.read(number), where), where, convert="rgb")
        return torch.from_numpy(np.array(square(picture, self.spec.size))).permute(2, 0, 1)

    def fingerprint(self) -> str:
        return self._fingerprint(f"{self.spec.size}")


def square(picture: Image.Image, size: int) -> Image.Image:
    """The middle square, its side that of the shorter one, resized to S × S pixels; see
    :func:`centre_crop`."""
    return centre_crop(picture, size, size)


def centre_crop(picture: Image.Image, height: int, width: int) -> Image.Image:
    """The largest part of this shape about the middle, resized to H × W pixels; a smaller one grows.

    Lanczos' filter, widened where pixels are merged, against aliasing. It sees what lies beyond the part
    too: as if the whole were resized and then cropped, but for the rounding of the longer side.

    Source: resize and centre crop of diffusers' `train_text_to_image.py`.
    """
    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)


def load_captioned_images(path: str, size: int) -> CaptionedImages:
    """The pictures (:data:`~.storage.PICTURES`) of a folder, nested or not, of a zip, or of webdataset shards
    (`*.tar`, one or a folder of them), in the order of their names, with the captions of
    :func:`~.captions.read_captions`.

    Captions are all read here, and some pictures of all parts of the set; the others as they are wanted.

    Args:
        size: S; see :func:`square`.

    Raises:
        UserError: nothing there, no pictures in it, a picture without caption, or one that cannot be read.
    """
    found = CaptionedImages(*open_captioned(Path(path), PICTURES), size)
    for number in spread(len(found)):
        found.pixels(number)
    return found


def open_captioned(place: Path, kind: FileKind) -> tuple[Storage, list[str]]:
    """The files of a kind in a folder, zip or shards, and the caption of each.

    Raises:
        UserError: nothing there, no such files in it, or one without caption.
    """
    files, texts = _open(place, kind)
    if not len(files):
        raise UserError(
            f"data.path: {place} holds no {kind.name}s ({', '.join(kind.suffixes)}) and no shards (.tar)"
            f"{_other_files(place, kind)}"
        )
    return files, read_captions(files, texts)


def _other_files(place: Path, kind: FileKind) -> str:
    """What a place holds instead of a kind, to end a message with."""
    other = CLIPS if kind == PICTURES else PICTURES
    with suppress(UserError):  # shards of the kind that is wanted, and files of the other beside them
        files, _ = _open(place, FileKind(other.name, (*other.suffixes, *other.unread)))
        if len(files):
            more = f" and {len(files) - 1:,} more" if len(files) > 1 else ""
            return f", but the {other.name} {files.name(0)}{more}; {kind.name}s are needed here"
    return ""


def _open(place: Path, kind: FileKind) -> tuple[Storage, Storage]:
    """Files of a kind, and those that may hold captions."""
    what = f"{kind.name}s"
    if not place.is_dir() and not place.is_file():
        raise UserError(
            f"data.path: {place} does not exist; a folder or zip of {what} ({', '.join(kind.suffixes)}) "
            "with captions, or webdataset shards, are needed"
        )
    if place.is_dir():
        plain, tars = FolderFiles(place, kind), FolderFiles(place, _SHARDS)
        files = [place / tars.name(number) for number in range(len(tars))]
        if files and len(plain):
            raise UserError(f"data.path: {place} holds {what} and shards ({tars.name(0)}); give one kind")
        if not files:
            return plain, FolderFiles(place, TEXTS)
    elif place.name.lower().endswith(_SHARDS.suffixes):
        files = [place]
    else:
        return ZipFiles(place, kind), ZipFiles(place, TEXTS)
    if packed := [file for file in files if file.name.lower().endswith(COMPRESSED)]:
        raise UserError(
            f"data.path: {packed[0]} is compressed; unpack it to a .tar, as {what} are read out of order"
        )
    shards = Shards.scan(place, files, (*kind.suffixes, *kind.unread, *TEXTS.suffixes))
    return TarShards(shards, kind), TarShards(shards, TEXTS)
