"""Mosaics and what strata gain on them."""

from __future__ import annotations

import pytest

from carv_distill.carv import stream
from carv_distill.data.images import load_images
from studies.attribution_budget import dimension


def test_a_mosaic_is_made_of_digits() -> None:
    picture = dimension.mosaic(2, 24, stream("mosaic"))
    assert picture.shape == (2, 1, 24, 24)
    images = load_images("digits").images
    tile = picture[1, :, 8:16, 16:24]
    assert (images == tile).flatten(1).all(1).any()


def test_gains_are_ratios_of_iid_draws() -> None:
    replicates = [
        {
            ("iid", 1): 8.0 + r,
            **{(n, k): (8.0 + r) / k**2 for n in dimension.SAMPLERS for k in dimension.BUDGETS},
        }
        for r in range(3)
    ]
    found = dimension.gains(replicates)
    assert {k: found["Strat", k].value for k in dimension.BUDGETS} == pytest.approx({4: 4, 16: 16, 64: 64})


@pytest.mark.slow
def test_a_small_model_trains_and_is_measured() -> None:
    weights, loss = dimension.train(40, 0)
    assert loss < dimension.train(4, 0)[1]
    assert all(value > 0 for value in dimension.replicate(weights, 8, 0, 0).values())
    assert dimension.budget(weights, 8, 3, 0).within_noise.value > 0
