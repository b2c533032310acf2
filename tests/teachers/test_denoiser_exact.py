import pytest
import torch
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.teachers.denoiser import GaussianDenoiser
from tests.helpers.exact import EmpiricalDenoiser, GaussianMixtureDenoiser

F64 = torch.float64
SIGMA = torch.tensor([0.05, 0.5, 2.0, 50.0], dtype=F64)
MEANS = torch.randn(3, 2, 2, generator=stream("means"), dtype=F64)
VARIANCES = torch.tensor([0.1, 0.5, 1.0], dtype=F64)
WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=F64)
MIXTURE = GaussianMixtureDenoiser(MEANS, VARIANCES, WEIGHTS)
X_T = (1 + SIGMA.view(-1, 1, 1)) * torch.randn(4, 2, 2, generator=stream("x_t"), dtype=F64)


def log_density(x_t: Tensor, sigma: Tensor) -> Tensor:
    """log p_σ(x_t) of the mixture by torch's own distributions, [n]."""
    scale = (VARIANCES + sigma.view(-1, 1) ** 2).sqrt()
    normal = torch.distributions.Normal(MEANS.flatten(1), scale[..., None])
    return (normal.log_prob(x_t.flatten(1)[:, None]).sum(-1) + WEIGHTS.log()).logsumexp(1)


def test_mixture_is_tweedie() -> None:
    """D = x_t + σ² ∇ log p_σ(x_t), the gradient by autograd of an independent log density."""
    x_t = X_T.clone().requires_grad_()
    score = torch.autograd.grad(log_density(x_t, SIGMA).sum(), x_t)[0]
    torch.testing.assert_close(
        MIXTURE(X_T, SIGMA), X_T + SIGMA.view(-1, 1, 1) ** 2 * score, rtol=1e-9, atol=1e-9
    )


def test_gaussian_is_the_posterior_mean() -> None:
    """D = (σ² μ + s² x_t)/(s² + σ²) for one s² per coordinate, and x_t + σ² ∇ log p_σ by autograd."""
    mean, variance = MEANS[0], torch.tensor([[0.1, 2.0], [0.5, 1.0]], dtype=F64)
    x_t = X_T.clone().requires_grad_()
    level2 = SIGMA.view(-1, 1, 1) ** 2
    log_p = torch.distributions.Normal(mean, (variance + level2).sqrt()).log_prob(x_t).sum()
    expected = X_T + level2 * torch.autograd.grad(log_p, x_t)[0]
    torch.testing.assert_close(GaussianDenoiser(mean, variance)(X_T, SIGMA), expected)


def test_gaussian_is_a_mixture_of_one() -> None:
    """One component gives the Gaussian teacher."""
    variance = torch.tensor(0.3, dtype=F64)
    gaussian = GaussianDenoiser(MEANS[0], variance)
    torch.testing.assert_close(
        GaussianMixtureDenoiser(MEANS[:1], variance.view(1))(X_T, SIGMA), gaussian(X_T, SIGMA)
    )


def test_a_condition_picks_the_component() -> None:
    """D(·, c) is the Gaussian teacher of component c; D tends to x_t at small σ, to Σ π μ at large σ."""
    cond = torch.tensor([2, 0, 1, 2])
    given = MIXTURE(X_T, SIGMA, cond)
    for i, c in enumerate(cond):
        alone = GaussianDenoiser(MEANS[c], VARIANCES[c])
        torch.testing.assert_close(given[i : i + 1], alone(X_T[i : i + 1], SIGMA[i : i + 1]))
    ends = torch.tensor([1e-6, 1e6], dtype=F64)
    low, high = MIXTURE(X_T[:2], ends)
    torch.testing.assert_close(low, X_T[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(high, (WEIGHTS.view(-1, 1, 1) * MEANS).sum(0), rtol=0, atol=1e-5)


def test_mixture_weights_are_equal_by_default() -> None:
    """No weights means 1/C each."""
    equal = GaussianMixtureDenoiser(MEANS, VARIANCES, torch.full((3,), 1 / 3, dtype=F64))
    torch.testing.assert_close(GaussianMixtureDenoiser(MEANS, VARIANCES)(X_T, SIGMA), equal(X_T, SIGMA))


def test_empirical_is_a_mixture_without_variance() -> None:
    """Components of variance 1e-12 at the data points give the empirical teacher."""
    data = torch.randn(20, 2, 2, generator=stream("data"), dtype=F64)
    mixture = GaussianMixtureDenoiser(data, torch.full((20,), 1e-12, dtype=F64))
    torch.testing.assert_close(EmpiricalDenoiser(data)(X_T, SIGMA), mixture(X_T, SIGMA), rtol=0, atol=1e-7)


def test_empirical_of_a_label_is_that_of_its_points() -> None:
    """With labels, D(·, c) sees the points of class c alone; without a condition, all of them."""
    data = torch.randn(20, 2, 2, generator=stream("data"), dtype=F64)
    labels = torch.arange(20) % 3
    denoiser, cond = EmpiricalDenoiser(data, labels), torch.tensor([2, 0, 1, 2])
    given = denoiser(X_T, SIGMA, cond)
    for i, c in enumerate(cond):
        alone = EmpiricalDenoiser(data[labels == c])(X_T[i : i + 1], SIGMA[i : i + 1])
        torch.testing.assert_close(given[i : i + 1], alone)
    assert torch.equal(denoiser(X_T, SIGMA), EmpiricalDenoiser(data)(X_T, SIGMA))


def test_empirical_finds_the_nearest_point_at_small_sigma() -> None:
    """Near a data point, at σ far below the spacing, D is that point."""
    data = torch.randn(20, 3, generator=stream("data", 3), dtype=F64)
    sigma = torch.full((20,), 1e-3, dtype=F64)
    torch.testing.assert_close(EmpiricalDenoiser(data)(data + 1e-4, sigma), data, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.002, 80.0])
def test_float32_stays_close_to_float64(sigma: float) -> None:
    """At both ends of EDM's range the float32 mixture is within 1e-5 of the float64 one (|x| up to σ)."""
    level = torch.tensor([sigma], dtype=F64)
    x_t = MEANS[:1] + sigma * torch.randn(1, 2, 2, generator=stream("ends"), dtype=F64)
    single = GaussianMixtureDenoiser(MEANS.float(), VARIANCES.float(), WEIGHTS.float())
    torch.testing.assert_close(
        single(x_t.float(), level.float()).double(), MIXTURE(x_t, level), rtol=1e-5, atol=1e-5
    )
