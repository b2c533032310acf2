"""What a set of clips is, wherever they lie."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from carv_distill.data.captioned import PromptedSet
from carv_distill.errors import UserError


@dataclass(frozen=True)
class ClipSpec:
    """The shape of a set of clips in RGB."""

    name: str
    frames: int
    """F = 4k + 1, as video codecs take it: the first frame, then groups of four."""
    height: int
    width: int
    classes: int
    """Number of labels, 0..classes-1."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(F, 3, H, W) of one clip."""
        return self.frames, 3, self.height, self.width


class ClipSet(PromptedSet, Protocol):
    """Captioned clips, wherever they lie; labels are numbers of captions, as of
    :class:`~carv_distill.data.captioned.CaptionedSet`."""

    @property
    def spec(self) -> ClipSpec:
        """Shape, name and number of captions."""
        ...

    @property
    def decodes(self) -> bool:
        """Whether :meth:`batch` is so much work that worker processes are worth their while."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Some of the clips, int64 [n] in 0..N-1 → float32 [n, F, 3, H, W] in [-1, 1] and labels int64 [n].

        A file that cannot be read is a UserError that names it.
        """
        ...

    def fingerprint(self) -> str:
        """Hexadecimal digits of what the clips are made of; captions do not enter."""
        ...


class SomeClips:
    """Some clips of a set, in the order of their numbers, int64 [n]; a :class:`ClipSet` of its own, with the
    captions that these have."""

    def __init__(self, plain: ClipSet, numbers: Tensor) -> None:
        self.plain, self.numbers = plain, numbers
        kept, self.labels = plain.labels[numbers].unique(return_inverse=True)
        self.captions = [plain.captions[label] for label in kept.tolist()]
        self.objects = [plain.objects[label] for label in kept.tolist()]

    @property
    def spec(self) -> ClipSpec:
        return replace(self.plain.spec, classes=len(self.captions))

    @property
    def decodes(self) -> bool:
        return self.plain.decodes

    def __len__(self) -> int:
        return len(self.numbers)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.plain.batch(self.numbers[indices])[0], self.labels[indices]

    def fingerprint(self) -> str:
        words = f"{self.plain.fingerprint()} {self.numbers.tolist()}"
        return hashlib.blake2b(words.encode(), digest_size=8).hexdigest()


def require_frames(frames: int, key: str = "frames") -> None:
    """UserError where a number of frames is not 4k + 1."""
    if frames < 1 or frames % 4 != 1:
        below = max(1, (frames - 1) // 4 * 4 + 1)
        raise UserError(
            f"{key}: {frames} is not 4k + 1, as video codecs need it; {below} or {below + 4} would be"
        )
