"""The exact teacher of the study on entropy, against its definition with a whole covariance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from carv_distill.carv import stream
from studies.sds_entropy import gaussian
from studies.sds_entropy.gaussian import CAMERAS, GaussianTeacher, error, train

SIDE = 6


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> GaussianTeacher:
    monkeypatch.setattr(gaussian, "SIZE", SIDE)
    return GaussianTeacher("cone", "red", 0.7)


def covariance(teacher: GaussianTeacher) -> Tensor:
    """s² C as a matrix [n, n] over the pixels of a channel: the spectrum applied to every unit picture."""
    units = torch.eye(SIDE**2, dtype=torch.float64).view(-1, SIDE, SIDE)
    shaped = torch.fft.irfft2(torch.fft.rfft2(units) * teacher.spectrum.double(), s=(SIDE, SIDE))
    return shaped.flatten(1)


def test_its_pictures_have_the_variance_it_says(teacher: GaussianTeacher) -> None:
    matrix = covariance(teacher)
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-12)
    assert torch.linalg.eigvalsh(matrix).min() > 0
    torch.testing.assert_close(matrix.diagonal(), torch.full((SIDE**2,), 0.49, dtype=torch.float64))


def test_its_residual_is_that_of_the_posterior_mean(teacher: GaussianTeacher) -> None:
    """w (ε̂ − ε) with ε̂ = (x_t − D)/σ and D = μ + S (S + σ²)⁻¹ (x_t − μ)."""
    g, n = stream(0), 4
    cameras = CAMERAS.sample(n, g)
    x, eps = (torch.randn(n, 3, SIDE, SIDE, generator=g, dtype=torch.float64) for _ in range(2))
    u = torch.rand(n, generator=g, dtype=torch.float64)
    found = teacher.residual(cameras)(x, u, eps, torch.arange(n))
    matrix, target = covariance(teacher), teacher.pictures(cameras).double().flatten(2)
    for i in range(n):
        sigma = teacher.levels.sigma(u)[i]
        x_t = (x + sigma * eps).flatten(2)[i]
        shrink = matrix @ torch.linalg.inv(matrix + sigma**2 * torch.eye(SIDE**2, dtype=torch.float64))
        denoised = target[i] + (x_t - target[i]) @ shrink.T
        weight = sigma**2 / (1 + sigma**2)
        exact = weight * ((x_t - denoised) / sigma - eps.flatten(2)[i])
        torch.testing.assert_close(found[i].flatten(1), exact, rtol=1e-9, atol=1e-9)


def test_a_training_is_a_function_of_its_seed_and_comes_nearer(teacher: GaussianTeacher) -> None:
    sure = GaussianTeacher("cone", "red", 0.05)
    scene, errors = train(sure, 1, 2, 30, seed=0, every=10)
    assert train(sure, 1, 2, 30, seed=0, every=10)[1] == errors
    assert len(errors) == 3
    assert errors[-1] == error(scene, sure)
    assert errors[-1] < errors[0]
