"""Pictures of which only the solid is fixed."""

from __future__ import annotations

import pytest
import torch

from carv_distill.carv import stream
from carv_distill.data.wild import SHIFT, WILD, WildSolids, wild_solids


@pytest.fixture(scope="module")
def views() -> WildSolids:
    return wild_solids(size=16, views=3)


def test_pictures_are_a_function_of_their_stream_and_in_range(views: WildSolids) -> None:
    numbers = torch.arange(len(views))
    one, again, other = (views.pictures(numbers, stream(i)) for i in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.shape == (3 * len(WILD), 3, 16, 16)
    assert -1 <= one.min() <= one.max() <= 1
    assert views.labels.tolist() == [i for i in range(len(WILD)) for _ in range(3)]


def test_a_ball_is_where_it_was_rendered_but_for_the_shift(views: WildSolids) -> None:
    """On plain white, black and grey the background is one shade; what is not it is the ball."""
    pictures = views.pictures(torch.zeros(200, dtype=torch.long), stream(2), plain=1.0)
    corners = pictures[:, :, :2, :2].flatten(1)
    shades = [round(v, 3) for v in corners.mean(1).tolist() if v in (-1.0, 0.0, 1.0)]
    assert {-1.0, 0.0, 1.0} == set(shades)
    seen = (pictures - corners[:, :1, None, None]).abs().sum(1) > 0.05
    rows = torch.arange(16).float()
    centre = (seen.sum(2) * rows).sum(1) / seen.sum((1, 2))
    assert centre.max() - centre.min() > SHIFT * 16  # it moves
    assert (centre - 7.5).abs().max() < SHIFT * 16 + 2  # and not out of sight
