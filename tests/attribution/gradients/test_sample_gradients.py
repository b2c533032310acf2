"""Features of samples, and attribution as a pipeline that is measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from carv_distill.attribution.features.pilot import pilot_sampler
from carv_distill.attribution.gradients.projection import build_projector
from carv_distill.attribution.gradients.sample_gradients import attribution_pipeline, sample_features
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.carv import stream
from carv_distill.errors import UserError
from carv_distill.variance import NoiseLevelProfile, VarianceBudget
from tests.helpers.linear import SCHEDULE, linear_gradients, mean_gradient
from tests.helpers.linear_gaussian import holds
from tests.helpers.sample_gradients import SAMPLER, batch, draws_of, unet_gradients

PLAIN = build_projector("none", 1, 0)
X = torch.tensor([[1.0, 0.5, -0.3], [0.2, -1.0, 0.8], [0.9, 0.1, 0.1]], dtype=torch.float64)


def test_a_pilots_gradient_that_is_not_finite_is_named() -> None:
    """The pilot runs before any feature is written: of three training samples the last holds infinity."""
    x = torch.ones(3, 3, dtype=torch.float64)
    x[2, 0] = torch.inf
    pipeline = attribution_pipeline(linear_gradients(), build_projector("none", 1), SampleBatch(x), chunk=4)
    with pytest.raises(UserError, match=r"^training sample 2: its gradient holds NaN or infinity$"):
        pilot_sampler(pipeline, 4, 0, torch.device("cpu"))


def test_a_pilot_measures_what_is_averaged() -> None:
    """Directions g/‖g‖, where each draw is divided by its norm; a gradient that is zero has none."""
    gradients, projector = linear_gradients(), build_projector("none", 1)
    u, index = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64), torch.tensor([0, 1, 1])
    eps = torch.randn(3, 3, generator=stream("directions"), dtype=torch.float64)
    rows = []
    for each in (False, True):
        pipeline = attribution_pipeline(gradients, projector, SampleBatch(X), normalise_draws=each)
        x, residual = pipeline(2, stream("two"))
        rows.append(residual(x[index], u, eps, index))
    plain, directions = rows
    torch.testing.assert_close(directions, plain / plain.norm(dim=1, keepdim=True))
    for p in gradients.loss.chosen.values():
        p.data.zero_()
    x, residual = attribution_pipeline(gradients, projector, SampleBatch(0 * X), normalise_draws=True)(
        1, stream("one")
    )
    with pytest.raises(UserError, match=r"^sample \d: a draw's gradient is zero and cannot be normalised"):
        residual(x, u[:1], 0 * eps[:1], index[:1])


def test_features_do_not_depend_on_the_chunk() -> None:
    gradients, (x, labels) = unet_gradients(), batch(5)
    draws = draws_of((1, 8, 8))
    projector = build_projector("countsketch", 50, 3)
    whole = sample_features(gradients, projector, SampleBatch(x, labels), draws, chunk=5)
    assert whole.shape == (5, 2, 50)
    assert torch.allclose(
        sample_features(gradients, projector, SampleBatch(x, labels), draws, chunk=2), whole, atol=1e-6
    )
    layout = gradients.loss.layout
    one = gradients(SampleBatch(x[3:4], labels[3:4]), draws.row(1))
    total = projector.begin(layout, 1)
    for name, part in zip(layout.sizes, one.split([*layout.sizes.values()], 1), strict=True):
        total.add(name, part)
    assert torch.allclose(whole[3, 1], total.features()[0].float(), atol=1e-6)


def test_the_mean_of_normalised_draws() -> None:
    gradients, (x, labels) = unet_gradients(), batch(2)
    draws = draws_of((1, 8, 8), groups=1)
    found = sample_features(gradients, PLAIN, SampleBatch(x, labels), draws, 2, normalise_draws=True)[:, 0]
    expected = torch.zeros_like(found, dtype=torch.float64)
    for k in range(3):
        one = replace(draws.row(0)[k : k + 1], weight=torch.ones(1, dtype=torch.float64))
        g = gradients(SampleBatch(x, labels), one)
        expected += draws.weight[0, k] * g / g.norm(dim=1, keepdim=True) / 3
    assert torch.allclose(found.double(), expected, atol=1e-6)


def test_a_zero_gradient_cannot_be_normalised() -> None:
    gradients = linear_gradients()
    for parameter in gradients.loss.chosen.values():
        parameter.data.zero_()
    x = torch.ones(2, 3, dtype=torch.float64)
    x[1] = 0  # D = 0 is right there
    draws = draws_of((3,), groups=1, each=1)
    with pytest.raises(UserError, match="sample 1: a draw's gradient is zero"):
        sample_features(gradients, PLAIN, SampleBatch(x), draws, 2, normalise_draws=True)


def test_mean_over_draws_is_the_exact_gradient() -> None:
    """20,000 stratified draws of a linear denoiser against the closed form, within 4 SE."""
    gradients = linear_gradients()
    x = torch.randn(2, 3, generator=stream("x"), dtype=torch.float64)
    means = []
    for group in range(20):
        draws = SAMPLER.draw(1, 1000, (3,), stream("exact", group), dtype=torch.float64)
        means.append(gradients(SampleBatch(x), draws.row(0)))
    found = torch.stack(means)
    error = found.mean(0) - mean_gradient(gradients, x)
    assert (error.abs() < 4 * found.std(0) / 20**0.5).all()


def pipeline_of(dim: int = 3):  # type: ignore[no-untyped-def]
    gradients = linear_gradients(dim)
    return gradients, attribution_pipeline(gradients, build_projector("none", 1, 0), SampleBatch(X), chunk=5)


@pytest.mark.slow
def test_the_budget_of_a_linear_denoiser() -> None:
    """Between: the spread of the exact mean gradients over the training set. Level: E g given u is a constant
    plus 2/D σ(u)² W, so tr Var_u = (2/D)² ‖W‖² Var σ²."""
    gradients, pipeline = pipeline_of()
    budget = VarianceBudget.measure(pipeline, (), stream("budget"), upstreams=250, levels=4, noises=4)
    mean = mean_gradient(gradients, X)
    between = (mean - mean.mean(0)).square().sum(1).mean()
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    weight = next(iter(gradients.loss.chosen.values()))
    level = (2 / 3) ** 2 * weight.square().sum() * SCHEDULE.sigma(u).square().var()
    for estimate, truth in ((budget.between, between), (budget.within_level, level)):
        assert abs(estimate.value - truth) < 4 * estimate.se
    assert budget.within_noise.value > 0
    assert holds(budget.total, float(budget.between.value + budget.within.value))


@pytest.mark.slow
def test_the_profile_of_antithetic_pairs() -> None:
    """g(ε) = even + odd at each level: pairs keep twice the even part. Where W = 0 the gradient is
    −2/D x (x + σ ε)ᵀ, whose noise is odd: pairs leave nothing, and q ∝ √E‖g‖² is as without them."""
    gradients, pipeline = pipeline_of()
    for p in gradients.loss.chosen.values():
        p.data.zero_()
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
