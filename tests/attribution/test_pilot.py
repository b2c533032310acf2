"""The sampler that a pilot chooses."""

from __future__ import annotations

import pytest
import torch

from carv_distill.attribution import pilot_sampler
from carv_distill.attribution.pilot import sampler_dict, sampler_from_dict
from carv_distill.carv import Pipeline
from carv_distill.carv.estimator import Residual

CPU = torch.device("cpu")


def pipeline_of(power: int) -> Pipeline:
    """g = (0.2 + u) ε^power, of one number."""

    def pipeline(count: int, generator: torch.Generator) -> tuple[torch.Tensor, Residual]:
        def residual(
            x: torch.Tensor, u: torch.Tensor, eps: torch.Tensor, index: torch.Tensor
        ) -> torch.Tensor:
            return (0.2 + u[:, None]) * eps**power

        return torch.zeros(count, 1, dtype=torch.float64), residual

    return pipeline


def test_odd_gradients_are_paired_and_even_ones_are_not() -> None:
    odd = pilot_sampler(pipeline_of(1), 4, 0, CPU)
    assert (odd.strategy, odd.noise) == ("paired", "antithetic")
    assert odd.proposal.mass[-1] > 2 * odd.proposal.mass[0]  # g grows sixfold, less the prior's share
    even = pilot_sampler(pipeline_of(2), 4, 0, CPU)
    assert even.strategy == "stratified"
    assert even.noise != "antithetic"
    uneven_count = pilot_sampler(pipeline_of(1), 3, 0, CPU, proposal="uniform")
    assert uneven_count.strategy == "stratified"
    single = pilot_sampler(pipeline_of(1), 1, 0, CPU, proposal="uniform")
    assert (single.strategy, single.noise) == ("stratified", "iid")


def test_what_is_given_is_taken_and_survives_a_file() -> None:
    given = pilot_sampler(pipeline_of(1), 4, 0, CPU, "systematic", "importance", "iid")
    assert (given.strategy, given.noise) == ("systematic", "iid")
    again = sampler_from_dict(sampler_dict(given))
    assert torch.allclose(again.proposal.mass, given.proposal.mass, rtol=1e-15)
    assert (again.strategy, again.noise) == ("systematic", "iid")
    with pytest.raises(ValueError, match="proposal must be one of uniform, importance, neyman; found 'best'"):
        pilot_sampler(pipeline_of(1), 4, 0, CPU, proposal="best")
