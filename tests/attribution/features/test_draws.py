"""Draws that samples share."""

from __future__ import annotations

import pytest
import torch

from carv_distill.attribution.features.draws import fixed_grid, shared_draws
from carv_distill.carv import NoiseLevelSampler, Proposal

SAMPLER = NoiseLevelSampler(Proposal.uniform(), "stratified")


def test_every_group_is_stratified_by_itself() -> None:
    draws = shared_draws(SAMPLER, 12, 3, (2, 2), seed=5)
    assert draws.eps.shape == (3, 4, 2, 2)
    assert torch.equal((draws.u * 4).long(), torch.arange(4).expand(3, 4))
    assert torch.equal(draws.u, shared_draws(SAMPLER, 12, 3, (2, 2), seed=5).u)
    assert not torch.equal(draws.u, shared_draws(SAMPLER, 12, 3, (2, 2), seed=6).u)


def test_a_fixed_grid_is_the_midpoints() -> None:
    draws = fixed_grid(8, 2, (3,), seed=0)
    assert torch.equal(draws.u, torch.tensor([0.125, 0.375, 0.625, 0.875]).expand(2, 4))
    assert (draws.weight == 1).all()
    assert draws.eps.shape == (2, 4, 3)


def test_what_ties_groups_together_is_refused() -> None:
    with pytest.raises(ValueError, match="strategy must be one of iid, stratified, paired, systematic"):
        shared_draws(NoiseLevelSampler(Proposal.uniform(), "global"), 4, 2, (1,), 0)
    for make in (lambda: shared_draws(SAMPLER, 5, 2, (1,), 0), lambda: fixed_grid(5, 2, (1,), 0)):
        with pytest.raises(ValueError, match="multiple of groups, found 5 draws in 2 groups"):
            make()
