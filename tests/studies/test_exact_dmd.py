"""The exact laboratory of `dmd_bottleneck`."""

from __future__ import annotations

import pytest
import torch

from carv_distill.carv import stream
from carv_distill.studies.exact_dmd import ExactArm, ExactDMD
from carv_distill.studies.levers import LEVERS, Lever


def arm(fake_updates: int, upstream: int = 8, draws: int = 4) -> ExactArm:
    return ExactArm("arm", upstream, draws, "stratified", fake_updates)


def test_the_gradient_is_that_of_autograd() -> None:
    """(d ⊙ z, d) averaged against the surrogate's backward through x = a ⊙ z + b."""
    run = ExactDMD(arm(0), 0)
    found = run.gradient(run.exact_fake(), run.arm.sampler, 6, 4, stream("x"), stream("u"))
    z, x = run.samples(6, stream("x"))
    from carv_distill.carv import average_residual

    drawn = run.arm.sampler.draw(6, 4, (8,), stream("u"), dtype=x.dtype)
    d = average_residual(run.residual(run.exact_fake()), x, drawn)
    loss = ((run.a * z + run.b) * d).sum() / 6
    torch.testing.assert_close(found, torch.stack(torch.autograd.grad(loss, [run.a, run.b])))


def test_the_exact_fake_score_is_the_students_own_denoiser() -> None:
    """E[x | x_t] by regression on 400,000 samples at one level, 4 SE."""
    run = ExactDMD(arm(0), 1)
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
    run = ExactDMD(arm(0), 0)
    for _ in range(600):
        run.update()
    assert run.distance < 1e-3
    errors = run.errors(pairs=8, samples=256)
    assert errors.monte_carlo < 1e-2
    assert errors.fake == 0


def test_a_lagging_fake_score_leaves_a_floor_and_is_seen_as_the_error() -> None:
    run = ExactDMD(arm(1), 0)
    for _ in range(600):
        run.update()
    assert run.distance > 5e-3
    errors = run.errors(pairs=8, samples=512)
    assert errors.fake > errors.monte_carlo


def test_levers_spend_the_compute_of_the_default() -> None:
    """To half an update; the cost formula by hand for R = 2, K = 3, one fake update."""
    assert Lever("x", upstream=2, draws=3, fake_updates=1).cost == 6 + 12 + 48 + 144
    for lever in LEVERS:
        spent = lever.updates(300) * lever.cost
        assert spent == pytest.approx(300 * LEVERS[0].cost, abs=lever.cost / 2)
