"""The samplers that are compared."""

from __future__ import annotations

import pytest
import torch

from studies.attribution_budget.arms import ARMS, draws_of

BEST = {"strategy": "paired", "noise": "antithetic", "mass": [0.7, 0.3]}


def test_every_arm_draws_what_it_says() -> None:
    for arm in ARMS:
        draws = draws_of(arm, BEST, 4, (2,), "test")
        assert draws.u.shape == draws.weight.shape == (1, 4)
        assert draws.eps.shape == (1, 4, 2)
    grid = draws_of("fixed grid", BEST, 4, (2,), "test")
    assert torch.equal(grid.u[0], torch.tensor([0.125, 0.375, 0.625, 0.875]))
    best = draws_of("best", BEST, 4, (2,), "test")
    assert torch.equal(best.u[:, ::2], best.u[:, 1::2])
    assert torch.equal(best.eps[:, ::2], -best.eps[:, 1::2])
    weights = draws_of("IW", BEST, 64, (2,), "test").weight.unique()
    assert weights.tolist() == pytest.approx([1 / 1.4, 1 / 0.6])
