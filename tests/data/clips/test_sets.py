"""What clips are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from carv_distill.data.clips.options import ClipOptions
from carv_distill.data.clips.rendered import RenderedClips
from carv_distill.data.clips.sets import ClipSet, ClipSpec, SomeClips, require_frames
from carv_distill.errors import UserError


def test_the_shape_of_a_clip() -> None:
    assert ClipSpec("x", frames=5, height=16, width=24, classes=2).shape == (5, 3, 16, 24)


def test_frames_are_one_and_groups_of_four() -> None:
    for frames in (1, 5, 17, 81):
        require_frames(frames)


@pytest.mark.parametrize(
    ("frames", "near"),
    [(16, "13 or 17"), (0, "1 or 5"), (-3, "1 or 5"), (2, "1 or 5"), (20, "17 or 21"), (4, "1 or 5")],
)
def test_other_numbers_are_a_line_with_those_beside_it(frames: int, near: str) -> None:
    with pytest.raises(UserError, match=rf"^data\.frames: {frames} is not 4k \+ 1, .*; {near} would be$"):
        require_frames(frames, "data.frames")


def test_some_clips_are_a_set_of_their_own(tmp_path: Path) -> None:
    """The clips of these numbers, with the captions that they have and a fingerprint that is theirs."""
    (tmp_path / "some.txt").write_text("9 2 5")
    whole = RenderedClips(12, 16, 5, 3)
    some: ClipSet = ClipOptions(None, (5, 16, 16), 12, 3, str(tmp_path / "some.txt")).load()
    clips, labels = some.batch(torch.tensor([2, 0]))
    of_whole, labels_of_whole = whole.batch(torch.tensor([9, 2]))
    assert torch.equal(clips, of_whole)
    assert [some.captions[n] for n in labels] == [whole.captions[n] for n in labels_of_whole]
    assert [some.objects[n] for n in labels] == [whole.objects[n] for n in labels_of_whole]
    assert (len(some), some.spec.classes, some.decodes) == (3, len(some.captions), True)
    same, other = (SomeClips(whole, torch.tensor([2, 5, last])).fingerprint() for last in (9, 8))
    assert some.fingerprint() == same
    assert len({same, other, whole.fingerprint()}) == 3
