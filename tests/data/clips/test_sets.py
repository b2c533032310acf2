"""What clips are."""

from __future__ import annotations

import pytest

from carv_distill.data.clips.sets import ClipSpec, require_frames
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
