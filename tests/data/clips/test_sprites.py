"""Pieces that clips are made of."""

from __future__ import annotations

import pytest
import torch

from carv_distill.data.clips.sprites import OBJECTS, SIDES, TURNING, VIEWS, sprites
from carv_distill.data.digits import load_digits_images


def test_objects_are_solids_and_digits() -> None:
    assert list(OBJECTS) == [*TURNING, *"0123456789"]
    assert "ball" not in OBJECTS  # its turning is not seen


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("number", range(len(OBJECTS)))
def test_a_sprite_is_a_piece_with_a_free_border(number: int, side: int) -> None:
    for pick in (0.0, 0.49, 1 - 2**-53):
        piece = sprites().sprite(number, pick, side - 0.5)
        assert piece.shape == (2, side, side)
        alpha, bright = piece
        assert 0 <= alpha.min() < alpha.max() <= 1 + 1e-6
        assert (bright <= alpha + 1e-6).all()
        assert 0.06 < alpha.mean() < 0.6
        border = torch.cat([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
        assert border.max() < 0.02


def test_the_size_that_is_enough_is_taken() -> None:
    sides = [sprites().sprite(0, 0.0, wanted).shape[-1] for wanted in (4.0, 16.0, 16.1, 40.0, 64.0, 500.0)]
    assert sides == [16, 16, 32, 64, 64, 64]


def test_all_views_and_scans_are_reached_and_are_of_their_object() -> None:
    found = sprites()
    assert [len(places) for places in found.places[: len(TURNING)]] == [VIEWS] * len(TURNING)
    digits = load_digits_images()
    for digit in range(10):
        places = found.places[len(TURNING) + digit]
        assert (digits.labels[places] == digit).all()
        assert len(places) == int((digits.labels == digit).sum())
        # enlarged, where much ink is, is the piece
        place = int(places[-1])
        alpha = found.sprite(len(TURNING) + digit, 1 - 2**-53, 64)[0, 6:58, 6:58]
        inked = torch.nn.functional.interpolate(alpha[None, None], (8, 8), mode="area").flatten()
        likeness = torch.corrcoef(torch.stack([inked, found.scans[place].flatten()]))[0, 1]
        assert likeness > 0.9


@pytest.mark.parametrize("number", range(len(TURNING)))
def test_a_solid_that_is_turned_looks_different(number: int) -> None:
    """By 45° and more; by 90° a cube may look alike."""
    piece = sprites().sprite(number, 0.3, 32)
    angle = torch.tensor(torch.pi / 4)
    turn = torch.tensor([[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0]])[None]
    grid = torch.nn.functional.affine_grid(turn, [1, 2, 32, 32], align_corners=False)
    turned = torch.nn.functional.grid_sample(piece[None], grid, align_corners=False)[0]
    assert (turned - piece).abs().sum() > 0.08 * piece.sum()
