"""The configured estimator."""

from __future__ import annotations

import pytest
import torch

from carv_distill.engine.estimator import build_estimator
from carv_distill.engine.options import EstimatorOptions
from carv_distill.errors import UserError


def test_a_teacher_of_discrete_timesteps_wants_a_weight_for_each() -> None:
    options = EstimatorOptions(proposal="weights", weights=[1.0, 2.0])
    with pytest.raises(UserError, match=r"found 2; the teacher has 50 timesteps and needs one for each"):
        build_estimator(options, 50)
    options.weights = [float(i) for i in range(50)]
    assert build_estimator(options, 50).sampler.proposal.bins == 50


def test_weights_are_those_of_the_levels_that_are_drawn() -> None:
    """q ∝ w(t) at t = t_min + (t_max − t_min) u: of w = 1, 2, 3, 4 on quarters, the part [0.25, 0.75] has 2
    on its first half and 3 on its second, and the whole has all of them."""
    options = EstimatorOptions(proposal="weights", weights=[1.0, 2.0, 3.0, 4.0], defensive=0.0)
    for levels, density in (((0.25, 0.75), [0.8, 0.8, 1.2, 1.2]), ((0.0, 1.0), [0.4, 0.8, 1.2, 1.6])):
        proposal = build_estimator(options, 4, levels).sampler.proposal
        middles = (torch.arange(4, dtype=torch.float64) + 0.5) / 4
        torch.testing.assert_close(1 / proposal.weight(middles), torch.tensor(density, dtype=torch.float64))


def test_a_part_of_the_schedule_without_weight_is_refused() -> None:
    options = EstimatorOptions(proposal="weights", weights=[1.0, 0.0], defensive=0.0)
    with pytest.raises(UserError, match=r"^estimator\.weights: "):
        build_estimator(options, 2, (0.5, 1.0))
