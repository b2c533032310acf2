"""The residual against its formula."""

from __future__ import annotations

import torch
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, Proposal, average_residual, stream, surrogate
from carv_distill.distillation.objective import dmd_residual
from carv_distill.teachers.denoiser import Denoiser, GaussianDenoiser
from carv_distill.teachers.schedule import EDMSchedule


def gaussians() -> tuple[GaussianDenoiser, GaussianDenoiser]:
    fake = GaussianDenoiser(torch.full((1, 2, 2), 0.3, dtype=torch.float64), torch.tensor(0.5))
    teacher = GaussianDenoiser(torch.full((1, 2, 2), -0.2, dtype=torch.float64), torch.tensor(0.25))
    return fake, teacher


def test_each_draw_is_normalised_by_its_own_divisor() -> None:
    """A row's residual is (D_fake − D_teacher)/(mean|x − D_teacher| + 1e-6), whatever the other rows are."""
    fake, teacher = gaussians()
    g = stream(0, "losses")
    x = torch.randn(6, 1, 2, 2, generator=g, dtype=torch.float64)
    eps = torch.randn(6, 1, 2, 2, generator=g, dtype=torch.float64)
    sigma = torch.tensor([0.02, 0.1, 0.5, 1, 5, 20], dtype=torch.float64)
    together = dmd_residual(fake, teacher, x, sigma, eps, None)
    for i in range(6):
        x_t = x[i] + sigma[i] * eps[i]
        d_fake = (sigma[i] ** 2 * 0.3 + 0.5 * x_t) / (0.5 + sigma[i] ** 2)
        d_teacher = (sigma[i] ** 2 * -0.2 + 0.25 * x_t) / (0.25 + sigma[i] ** 2)
        expected = (d_fake - d_teacher) / ((x[i] - d_teacher).abs().mean() + 1e-6)
        torch.testing.assert_close(together[i], expected, rtol=1e-12, atol=1e-12)


def test_equal_scores_give_no_gradient() -> None:
    """At D_fake = D_teacher the residual is exactly zero, at every noise level."""
    _, teacher = gaussians()
    x = torch.randn(3, 1, 2, 2, generator=stream(1), dtype=torch.float64)
    sigma = torch.tensor([1e-3, 1.0, 80.0], dtype=torch.float64)
    assert not dmd_residual(teacher, teacher, x, sigma, torch.ones_like(x), None).any()


def test_descent_carries_the_student_to_the_teacher() -> None:
    """A Gaussian student with its exact fake score: SGD takes its mean from −1 to the teacher's 1.

    The mean of the last 200 iterates is within 4 standard errors (from batch means) of 1.
    """
    shape = (1, 2, 2)
    teacher = GaussianDenoiser(torch.ones(shape, dtype=torch.float64), torch.tensor(0.25))
    sampler = NoiseLevelSampler(Proposal.uniform(), "stratified")
    schedule = EDMSchedule(0.02, 20.0)
    mean = torch.full(shape, -1.0, dtype=torch.float64, requires_grad=True)
    trace = []
    for step in range(400):
        g = stream(2, step)
        x = mean + 0.5 * torch.randn(8, *shape, generator=g, dtype=torch.float64)
        fake = GaussianDenoiser(mean.detach(), torch.tensor(0.25))

        def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor, fake: Denoiser = fake) -> Tensor:
            return dmd_residual(fake, teacher, x, schedule.sigma(u), eps, None)

        draws = sampler.draw(8, 4, shape, generator=g, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(surrogate(x, average_residual(residual, x, draws)), mean)
        with torch.no_grad():
            mean -= 0.05 * gradient
        trace.append(mean.detach().mean())
    batches = torch.stack(trace[-200:]).view(10, 20).mean(1)
    assert (batches.mean() - 1).abs() < 4 * batches.std() / 10**0.5 + 1e-3
