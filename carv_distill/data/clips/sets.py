"""What a set of clips is, wherever they lie."""

from __future__ import annotations

from dataclasses import dataclass
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


def require_frames(frames: int, key: str = "frames") -> None:
    """UserError where a number of frames is not 4k + 1."""
    if frames < 1 or frames % 4 != 1:
        below = max(1, (frames - 1) // 4 * 4 + 1)
        raise UserError(
            f"{key}: {frames} is not 4k + 1, as video codecs need it; {below} or {below + 4} would be"
        )
