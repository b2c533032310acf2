import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from carv_distill.carv import stream
from carv_distill.teachers.denoiser import NetworkDenoiser, denoising_loss, reconstruction_loss
from carv_distill.teachers.parametrisation import (
    EDMPreconditioning,
    EpsPreconditioning,
    Preconditioning,
    SamplePreconditioning,
    VPreconditioning,
)
from carv_distill.teachers.schedule import VPSchedule

F64 = torch.float64
VP = VPSchedule(DDPMScheduler().betas)
SIGMA = VP.table[[3, 200, 500, 950]]
COND = torch.zeros(4, dtype=torch.long)
X = torch.randn(4, 2, 3, 3, generator=stream("x"), dtype=F64)
EPS = torch.randn(4, 2, 3, 3, generator=stream("eps"), dtype=F64)


class Raw(nn.Module):
    """F = tanh(w x)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.7, dtype=F64))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None) -> Tensor:
        return torch.tanh(self.w * x)


@pytest.mark.parametrize(
    "precondition",
    [EDMPreconditioning(0.7), EpsPreconditioning(VP), VPreconditioning(VP), SamplePreconditioning(VP)],
)
def test_loss_is_the_weighted_denoising_error(precondition: Preconditioning) -> None:
    """mean λ(σ) (D(x_t) − x)² with λ = 1/c_out², from the denoiser's own output."""
    denoiser = NetworkDenoiser(Raw(), precondition)
    level = SIGMA.view(-1, 1, 1, 1)
    error = (denoiser(X + level * EPS, SIGMA, COND) - X).square()
    expected = (error / precondition(SIGMA).out.view(-1, 1, 1, 1) ** 2).mean()
    torch.testing.assert_close(denoising_loss(denoiser, X, SIGMA, EPS, COND), expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    "precondition",
    [EDMPreconditioning(0.7), EpsPreconditioning(VP), VPreconditioning(VP), SamplePreconditioning(VP)],
)
def test_the_plain_error_is_the_denoisers(precondition: Preconditioning) -> None:
    """mean (D(x_t) − x)² from the denoiser's own output; where F is D the two losses are one."""
    denoiser = NetworkDenoiser(Raw(), precondition)
    expected = (denoiser(X + SIGMA.view(-1, 1, 1, 1) * EPS, SIGMA, COND) - X).square().mean()
    found = reconstruction_loss(denoiser, X, SIGMA, EPS, COND)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)
    same = torch.isclose(found, denoising_loss(denoiser, X, SIGMA, EPS, COND))
    assert bool(same) is isinstance(precondition, SamplePreconditioning)


def test_edm_weight() -> None:
    """For EDM, λ = (σ² + σ_d²)/(σ σ_d)²."""
    out = EDMPreconditioning(0.7)(SIGMA).out
    torch.testing.assert_close(1 / out**2, (SIGMA**2 + 0.49) / (SIGMA * 0.7) ** 2)


def test_epsilon_prediction_gives_the_ddpm_loss() -> None:
    """mean ‖F(√ᾱ x + √(1−ᾱ) ε) − ε‖², Ho et al. 2020, equation 14."""
    raw, scheduler = Raw(), DDPMScheduler()
    t = torch.tensor([3, 200, 500, 950])
    x_vp = scheduler.add_noise(X, EPS, t)
    ddpm = (raw(x_vp, t, None) - EPS).square().mean()
    ours = denoising_loss(NetworkDenoiser(raw, EpsPreconditioning(VP)), X, SIGMA, EPS, COND)
    # diffusers' ᾱ is a float32 product
    torch.testing.assert_close(ours, ddpm, rtol=1e-4, atol=0)


def test_v_prediction_gives_the_v_loss() -> None:
    """mean ‖F − v‖² with diffusers' get_velocity."""
    raw, scheduler = Raw(), DDPMScheduler()
    t = torch.tensor([3, 200, 500, 950])
    velocity = (
        (raw(scheduler.add_noise(X, EPS, t), t, None) - scheduler.get_velocity(X, EPS, t)).square().mean()
    )
    ours = denoising_loss(NetworkDenoiser(raw, VPreconditioning(VP)), X, SIGMA, EPS, COND)
    torch.testing.assert_close(ours, velocity, rtol=1e-4, atol=0)


class ExactGaussian(nn.Module):
    """The raw EDM network of data N(0, 1): D = x_t/(1 + σ²), σ_d = 0.5, plus a constant error."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None) -> Tensor:
        sigma = (4 * c_noise).exp()[:, None]
        c = EDMPreconditioning()(sigma)
        return (x / c.signal / (1 + sigma**2) - c.skip * x) / c.out + self.error


def test_loss_of_the_exact_network_is_the_posterior_variance() -> None:
    """E loss = λ σ²/(1 + σ²) + error² within 4 SE, n = 200 000 at σ = 0.8, SE = s/√n."""
    n, sigma = 200_000, torch.full((200_000,), 0.8, dtype=F64)
    x = torch.randn(n, 1, generator=stream("data"), dtype=F64)
    eps = torch.randn(n, 1, generator=stream("noise"), dtype=F64)
    minimum = (0.64 + 0.25) / (0.8 * 0.5) ** 2 * 0.64 / 1.64
    for error in (0.0, 0.3):
        denoiser = NetworkDenoiser(ExactGaussian(error), EDMPreconditioning())
        loss = denoising_loss(denoiser, x, sigma, eps, COND[:0])
        # the error of F is N(error, minimum): its square has variance 2 m² + 4 m error²
        se = ((2 * minimum**2 + 4 * minimum * error**2) / n) ** 0.5
        assert abs(loss.item() - minimum - error**2) < 4 * se


def test_gradient_is_that_of_the_weighted_error() -> None:
    """∂loss/∂w against a central difference, to 1e-7."""
    raw = Raw()
    denoiser = NetworkDenoiser(raw, EDMPreconditioning())
    gradient = torch.autograd.grad(denoising_loss(denoiser, X, SIGMA, EPS, COND), raw.w)[0].item()
    values = []
    for w in (0.7 + 1e-5, 0.7 - 1e-5):
        with torch.no_grad():
            raw.w.fill_(w)
            values.append(denoising_loss(denoiser, X, SIGMA, EPS, COND).item())
    assert gradient == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-7)
