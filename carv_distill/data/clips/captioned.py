"""Captioned clips in video files, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from carv_distill.data.captioned import CaptionedFiles, centre_crop, open_captioned
from carv_distill.data.storage import CLIPS, Storage
from carv_distill.data.stored import spread

from .frames import FrameSampling, read_frames
from .sets import ClipSpec

LOOKED_AT = 8
"""Clips that are read when a set is opened, so that most faults are found before the work starts."""
_HASHED = 1 << 20
"""Bytes of a file that its fingerprint has."""


class CaptionedClips(CaptionedFiles):
    """A :class:`~.sets.ClipSet` of video files.

    Args:
        texts: the caption of each.
        height, width: H, W; see :func:`~carv_distill.data.captioned.centre_crop`.
        sampling: which frames.
    """

    def __init__(
        self, storage: Storage, texts: Sequence[str], height: int, width: int, sampling: FrameSampling
    ) -> None:
        super().__init__(storage, texts)
        self.sampling = sampling
        self.spec = ClipSpec(storage.path.stem, sampling.frames, height, width, len(self.captions))

    def pixels(self, number: int) -> Tensor:
        """One clip, uint8 [F, 3, H, W]."""
        with self.storage.open(number) as file:
            pictures = read_frames(file, self._where(number), self.sampling)
        cropped = [np.array(centre_crop(p, self.spec.height, self.spec.width)) for p in pictures]
        return torch.from_numpy(np.stack(cropped)).permute(0, 3, 1, 2)

    def fingerprint(self) -> str:
        return self._fingerprint(f"{self.spec.height} {self.spec.width} {self.sampling}", _HASHED)


def load_captioned_clips(
    path: str, height: int, width: int, sampling: FrameSampling | None = None
) -> CaptionedClips:
    """The clips (:data:`~carv_distill.data.storage.CLIPS`) of a folder, zip or shards, in the order of their
    names, with their captions: by the conventions of
    :func:`~carv_distill.data.captioned.load_captioned_images`.

    Captions are all read here, and some clips of all parts of the set; the others as they are wanted.

    Args:
        height, width: H, W; the largest part of this shape about the middle of each frame is resized to it.
        sampling: which frames; by default the first 17.

    Raises:
        UserError: nothing there, no clips in it, a clip without caption, or one that does not decode or has
            too few frames.
    """
    found = CaptionedClips(*open_captioned(Path(path), CLIPS), height, width, sampling or FrameSampling())
    for number in spread(len(found), LOOKED_AT):
        found.pixels(number)
    return found
