"""Attribution under the measures of carv."""

from __future__ import annotations

import torch

from carv_distill.attribution.pipeline import attribution_pipeline
from carv_distill.attribution.projection import build_projector
from carv_distill.carv import stream
from carv_distill.variance import NoiseLevelProfile, VarianceBudget
from tests.helpers.linear import SCHEDULE, linear_gradients, mean_gradient
from tests.helpers.linear_gaussian import holds

X = torch.tensor([[1.0, 0.5, -0.3], [0.2, -1.0, 0.8], [0.9, 0.1, 0.1]], dtype=torch.float64)


def pipeline_of(dim: int = 3):  # type: ignore[no-untyped-def]
    gradients = linear_gradients(dim)
    return gradients, attribution_pipeline(gradients, build_projector("none", 1, 0), X, None, chunk=5)


def test_the_budget_of_a_linear_denoiser() -> None:
    """Between: the spread of the exact mean gradients over the training set. Level: E g given u is a constant
    plus 2/D σ(u)² W, so tr Var_u = (2/D)² ‖W‖² Var σ²."""
    gradients, pipeline = pipeline_of()
    budget = VarianceBudget.measure(pipeline, (), stream("budget"), upstreams=250, levels=4, noises=4)
    mean = mean_gradient(gradients, X)
    between = (mean - mean.mean(0)).square().sum(1).mean()
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    weight = next(iter(gradients._parameters.values()))
    level = (2 / 3) ** 2 * weight.square().sum() * SCHEDULE.sigma(u).square().var()
    for estimate, truth in ((budget.between, between), (budget.within_level, level)):
        assert abs(estimate.value - truth) < 4 * estimate.se
    assert budget.within_noise.value > 0
    assert holds(budget.total, float(budget.between.value + budget.within.value))


def test_the_profile_of_antithetic_pairs() -> None:
    """g(ε) = even + odd at each level: pairs keep twice the even part. Where W = 0 the gradient is
    −2/D x (x + σ ε)ᵀ, whose noise is odd: pairs leave nothing, and q ∝ √E‖g‖² is as without them."""
    gradients, pipeline = pipeline_of()
    for p in gradients._parameters.values():
        p.zero_()
    plain, paired = (
        NoiseLevelProfile.measure(pipeline, (), stream("profile"), 4, 200, noise=noise)
        for noise in ("iid", "antithetic")
    )
    assert (paired.noise_variance < 1e-25).all()
    sigma = SCHEDULE.sigma((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000).view(4, -1)
    square = X.square().sum(1).mean()
    fourth = X.square().sum(1).square().mean()
    noise = (2 / 3) ** 2 * square * 3 * sigma.square().mean(1)
    second = noise + (2 / 3) ** 2 * fourth
    assert ((plain.noise_variance - noise).abs() < 4 * plain.noise_variance_se).all()
    for found in (plain, paired):
        assert ((found.second_moment - second).abs() < 4 * found.second_moment_se).all()
