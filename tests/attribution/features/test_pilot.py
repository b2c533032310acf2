"""The sampler that a pilot chooses."""

from __future__ import annotations

import pytest
import torch

from carv_distill.attribution.features.pilot import pilot_sampler, sampler_dict, sampler_from_dict
from carv_distill.carv.estimator import Residual
from carv_distill.variance import Pipeline

CPU = torch.device("cpu")


def pipeline_of(slope: float, power: int = 1) -> Pipeline:
    """g = slope · u + (0.2 + u) ε^power, of one number."""

    def pipeline(count: int, generator: torch.Generator) -> tuple[torch.Tensor, Residual]:
        def residual(
            x: torch.Tensor, u: torch.Tensor, eps: torch.Tensor, index: torch.Tensor
        ) -> torch.Tensor:
            return slope * u[:, None] + (0.2 + u[:, None]) * eps**power

        return torch.zeros(count, 1, dtype=torch.float64), residual

    return pipeline


def test_what_has_least_variance_is_chosen() -> None:
    """Odd noise alone: pairs leave nothing. Even noise: no antithetic pairs. A steep mean over levels: K
    strata, not K/2, each with a shift of its own."""
    odd = pilot_sampler(pipeline_of(0), 4, 0, CPU)
    assert (odd.strategy, odd.noise) == ("paired", "antithetic")
    even = pilot_sampler(pipeline_of(0, 2), 4, 0, CPU, "stratified", samples=60)
    assert (even.strategy, even.noise) == ("stratified", "iid")
    steep = pilot_sampler(pipeline_of(30), 8, 0, CPU, proposal="uniform", samples=60)
    assert (steep.strategy, steep.noise) == ("stratified", "antithetic")
    importance = pilot_sampler(pipeline_of(0), 1, 0, CPU, samples=60)
    assert (importance.strategy, importance.noise) == ("stratified", "iid")
    assert (
        importance.proposal.mass[-1] > 2 * importance.proposal.mass[0]
    )  # g grows sixfold, less the prior's share
    assert pilot_sampler(pipeline_of(0), 3, 0, CPU).strategy != "paired"


def test_one_shift_for_all_strata_is_chosen_where_the_mean_has_a_peak() -> None:
    """g = 30 cos(2π u) + ε: K levels at one distance add up to nothing, K in strata do not."""

    def pipeline(count: int, generator: torch.Generator) -> tuple[torch.Tensor, Residual]:
        def residual(
            x: torch.Tensor, u: torch.Tensor, eps: torch.Tensor, index: torch.Tensor
        ) -> torch.Tensor:
            return 30 * torch.cos(2 * torch.pi * u[:, None]) + eps

        return torch.zeros(count, 1, dtype=torch.float64), residual

    found = pilot_sampler(pipeline, 4, 0, CPU, proposal="uniform", samples=60)
    assert (found.strategy, found.noise) == ("systematic", "antithetic")
    assert pilot_sampler(pipeline, 16, 0, CPU, proposal="uniform", samples=60).strategy != "systematic"


def test_what_is_given_is_taken_and_survives_a_file() -> None:
    given = pilot_sampler(pipeline_of(0), 4, 0, CPU, "systematic", "importance", "iid")
    assert (given.strategy, given.noise) == ("systematic", "iid")
    again = sampler_from_dict(sampler_dict(given))
    assert torch.allclose(again.proposal.mass, given.proposal.mass, rtol=1e-15)
    assert (again.strategy, again.noise) == ("systematic", "iid")
    paired = pilot_sampler(pipeline_of(0), 4, 0, CPU, "paired", "uniform", "iid")
    assert (paired.strategy, paired.noise, paired.proposal.mass.unique().numel()) == ("paired", "iid", 1)
    with pytest.raises(ValueError, match=r"proposal must be one of auto, uniform, .*; found 'best'"):
        pilot_sampler(pipeline_of(0), 4, 0, CPU, proposal="best")
