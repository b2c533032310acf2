"""The exact laboratory."""

from __future__ import annotations

import pytest
import torch

from carv_distill.carv import average_residual, stream
from studies.dmd_bottleneck.gaussian_dmd import Estimator, ExactDMD

SMALL = Estimator(8, 4, "stratified")


def train(run: ExactDMD, updates: int) -> None:
    for _ in range(updates):
        run.learn_fake()
        run.learn_student()


def test_the_gradient_is_that_of_autograd() -> None:
    """(d ⊙ z, d) averaged against the surrogate's backward through x = a ⊙ z + b."""
    run = ExactDMD(SMALL, 0, 0)
    found = run.gradient(run.exact_fake(), Estimator(6, 4, "stratified"), stream("x"), stream("u"))
    z, x = run.samples(6, stream("x"))
    drawn = SMALL.sampler.draw(6, 4, (8,), stream("u"), dtype=x.dtype)
    d = average_residual(run.residual(run.exact_fake()), x, drawn)
    loss = ((run.a * z + run.b) * d).sum() / 6
    torch.testing.assert_close(found, torch.stack(torch.autograd.grad(loss, [run.a, run.b])))


def test_the_exact_fake_score_is_the_students_own_denoiser() -> None:
    """E[x | x_t] by regression on 400,000 samples at one level, 4 SE."""
    run = ExactDMD(SMALL, 0, 1)
    with torch.no_grad():
        run.a.copy_(torch.linspace(0.2, 1.5, 8))
        run.b.copy_(torch.linspace(-1, 1, 8))
    _, x = run.samples(400_000, stream("regression"))
    sigma = torch.full((len(x),), 0.7, dtype=x.dtype)
    x_t = x + 0.7 * torch.randn(x.shape, generator=stream("eps"), dtype=x.dtype)
    error = x - run.exact_fake()(x_t, sigma)  # orthogonal to every function of x_t
    for function in (torch.ones_like(x_t), x_t):
        product = error * function
        assert (product.mean(0).abs() < 4 * product.std(0) / len(x) ** 0.5).all()


def test_with_the_exact_fake_score_the_student_arrives() -> None:
    """Every residual vanishes at the optimum, so its gradient's variance does too: no floor."""
    run = ExactDMD(SMALL, 0, 0)
    train(run, 600)
    assert run.distance < 1e-3
    errors = run.errors([SMALL], pairs=8, samples=256)
    assert errors[SMALL.name] < 1e-2
    assert errors["fake"] == 0


@pytest.mark.slow
def test_a_lagging_fake_score_leaves_a_floor_and_is_seen_as_the_error() -> None:
    run = ExactDMD(SMALL, 1, 0)
    train(run, 600)
    assert run.distance > 5e-3
    run.learn_fake()
    errors = run.errors([SMALL], pairs=8, samples=512)
    assert errors["fake"] > errors[SMALL.name]


def test_the_fake_scores_error_is_that_of_a_large_sample() -> None:
    """⟨f₁, f₂⟩ of halves against the gradient's shift on 200,000 other samples: 5 %."""
    run = ExactDMD(SMALL, 1, 0)
    train(run, 30)
    run.learn_fake()
    large = Estimator(200_000, 1, "iid")
    shift = run.gradient(run.fake_score(), large, stream("l"), stream("u"))
    shift -= run.gradient(run.exact_fake(), large, stream("l"), stream("u"))
    found = run.errors([SMALL], pairs=2, samples=8192)["fake"]
    assert found == pytest.approx(float(shift.square().sum()), rel=0.05)
