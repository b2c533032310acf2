"""Which clips: rendered ones, or those of a folder. Known without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .sets import ClipSet


@dataclass(frozen=True)
class ClipOptions:
    """A set of clips."""

    path: str | None = None
    """A folder, zip or shards of captioned videos; None: rendered clips."""
    size: tuple[int, int, int] | None = (17, 112, 112)
    """Frames, height, width; None: as the model that takes them has it."""
    count: int = 1000
    """Of rendered clips."""
    seed: int = 0
    """Of rendered clips."""
    only: str | None = None
    """A file with the numbers of the clips that are taken; None: all."""

    def load(self) -> ClipSet:
        """The clips.

        Raises:
            UserError: a number out of range, or files that are no captioned clips.
        """
        from carv_distill.data.numbers import ONLY, read_numbers

        from .captioned import load_captioned_clips
        from .frames import FrameSampling
        from .rendered import RenderedClips
        from .sets import SomeClips

        assert self.size is not None
        frames, height, width = self.size
        if self.path is not None:
            clips: ClipSet = load_captioned_clips(self.path, height, width, FrameSampling(frames))
        else:
            clips = RenderedClips(self.count, height, frames, self.seed)
        return clips if self.only is None else SomeClips(clips, read_numbers(self.only, len(clips), ONLY))
