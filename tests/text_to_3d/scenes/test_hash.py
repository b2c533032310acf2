"""What a hash grid says at known points, and how large it is."""

from __future__ import annotations

import pytest
import torch

from carv_distill.text_to_3d.options import HashOptions
from carv_distill.text_to_3d.scenes import HashScene


@pytest.mark.parametrize("log_size", [14, 8])
def test_hash_entries_interpolate_between_corners(log_size: int) -> None:
    """With the network replaced by a sum, a field linear in its tables is continuous across a cell's face."""
    scene = HashScene(16, 1.0, HashOptions(levels=1, log_size=log_size))
    torch.nn.init.normal_(scene.tables)
    side = scene.sides[0]
    face = 2 * 5 / side - 1  # x at the boundary of two cells
    points = torch.tensor([[face - 1e-5, 0.1, 0.2], [face + 1e-5, 0.1, 0.2]], dtype=torch.float32)
    found = scene._look_up(scene.tables[0], (points + 1) / 2 * side, side)
    assert torch.allclose(found[0], found[1], atol=1e-2)


def test_a_level_that_fits_has_an_entry_for_each_corner() -> None:
    """(16 + 1)³ corners of a grid of side 16 read 4,913 different entries of 2^14; of 2^12 some share."""
    corners = torch.cartesian_prod(*[torch.arange(17.0)] * 3)
    for log_size, entries in ((14, 17**3), (12, None)):
        scene = HashScene(16, 1.0, HashOptions(levels=1, log_size=log_size, features=1))
        with torch.no_grad():
            scene.tables.copy_(torch.arange(2.0**log_size).view(1, -1, 1))
        found = scene._look_up(scene.tables[0], corners, 16).unique()
        assert len(found) == entries if entries else len(found) < 17**3


def test_the_sizes_of_a_hash_grid_are_those_asked_for() -> None:
    """Instant-NGP's: 16 resolutions from 16 to 2048 that grow by (2048/16)^(1/15), and a network of 64."""
    scene = HashScene(2048, 1.0, HashOptions(levels=16, log_size=10, base_resolution=16, width=64))
    assert (scene.sides[0], scene.sides[1], scene.sides[-1], len(scene.sides)) == (16, 22, 2048, 16)
    assert scene.tables.shape == (16, 2**10, 2)
    assert scene.network[0].weight.shape == (64, 32)
