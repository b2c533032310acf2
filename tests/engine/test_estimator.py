"""The configured estimator."""

from __future__ import annotations

import pytest

from carv_distill.engine.estimator import build_estimator
from carv_distill.engine.options import EstimatorOptions
from carv_distill.errors import UserError


def test_a_teacher_of_discrete_timesteps_wants_a_weight_for_each() -> None:
    options = EstimatorOptions(proposal="weights", weights=[1.0, 2.0])
    with pytest.raises(UserError, match=r"found 2; the teacher has 50 timesteps and needs one for each"):
        build_estimator(options, 50)
    options.weights = [float(i) for i in range(50)]
    assert build_estimator(options, 50).sampler.proposal.bins == 50
