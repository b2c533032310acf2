"""y = a x + b ε, x̂ = p y + q F, ε̂ = r y + s F of every parametrisation, at pure noise too."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from carv_distill.carv import stream
from carv_distill.teachers.condition import Cond
from carv_distill.teachers.denoiser import (
    NetworkDenoiser,
    denoised_difference,
    denoising_loss,
    reconstruction_loss,
)
from carv_distill.teachers.parametrisation import (
    EDMPreconditioning,
    EpsPreconditioning,
    FlowPreconditioning,
    Preconditioning,
    SamplePreconditioning,
    VPreconditioning,
)
from carv_distill.teachers.schedule import DiscreteSchedule, FlowSchedule, VPSchedule

F64 = torch.float64
BETAS: Any = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
VP = VPSchedule(DDPMScheduler(1000, **BETAS).betas)
ZERO = VPSchedule(DDPMScheduler(1000, **BETAS, rescale_betas_zero_snr=True).betas)
FLOW = FlowSchedule(1000, 3.0)
EVERY: dict[str, tuple[Preconditioning, DiscreteSchedule]] = {
    "edm": (EDMPreconditioning(0.7), VP),
    "epsilon": (EpsPreconditioning(VP), VP),
    "v": (VPreconditioning(VP), VP),
    "sample": (SamplePreconditioning(VP), VP),
    "v, zero": (VPreconditioning(ZERO), ZERO),
    "sample, zero": (SamplePreconditioning(ZERO), ZERO),
    "flow": (FlowPreconditioning(FLOW), FLOW),
}


class Given(nn.Module):
    """F that is handed in, and remembers its input."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output
        self.calls: list[tuple[Tensor, Tensor]] = []

    def forward(self, y: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        self.calls.append((y, c_noise))
        return self.output


def rows(name: str, dtype: torch.dtype = F64) -> tuple[NetworkDenoiser, Tensor, Tensor, Tensor]:
    """(denoiser of a random F, x, ε, σ) at ten levels, the last one the schedule's last."""
    precondition, schedule = EVERY[name]
    places = torch.linspace(0, schedule.timesteps - 1, 10).long()
    sigma = schedule.table[places].to(dtype)
    x, eps, f = torch.randn(3, 10, 2, 3, generator=stream("rows"), dtype=F64).to(dtype)
    return NetworkDenoiser(Given(f), precondition), x, eps, sigma


@pytest.mark.parametrize("name", EVERY)
def test_the_two_estimates_make_up_the_input(name: str) -> None:
    """a x̂ + b ε̂ = y whatever F is; a, b, … are finite."""
    denoiser, x, eps, sigma = rows(name)
    c = denoiser.coefficients(x, sigma)
    assert all(part.isfinite().all() for part in c)
    y = c.noised(x, eps)
    f = denoiser.raw(y, c, None)
    clean, noise = c.skip * y + c.out * f, c.eps_skip * y + c.eps_out * f
    torch.testing.assert_close(c.signal * clean + c.noise * noise, y, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(c.noise[:-1] / c.signal[:-1], sigma[:-1].view(-1, 1, 1), rtol=1e-11, atol=0)


@pytest.mark.parametrize("name", EVERY)
def test_the_ideal_output_gives_picture_and_noise(name: str) -> None:
    """F = (p ε − r x)/(p s − q r): x̂ = x and ε̂ = ε; the loss is 0 there, and its weight is 1/q²."""
    denoiser, x, eps, sigma = rows(name)
    c = denoiser.coefficients(x, sigma)
    ideal = (c.skip * eps - c.eps_skip * x) / (c.skip * c.eps_out - c.out * c.eps_skip)
    denoiser.network = Given(ideal)
    y = c.noised(x, eps)
    noise = c.eps_skip * y + c.eps_out * ideal
    torch.testing.assert_close(c.skip * y + c.out * ideal, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(noise, eps, rtol=1e-9, atol=1e-9)
    assert float(denoising_loss(denoiser, x, sigma, eps, None)) < 1e-20
    error = torch.randn(x.shape, generator=stream("error"), dtype=F64)
    denoiser.network = Given(ideal + error)
    assert float(denoising_loss(denoiser, x, sigma, eps, None)) == pytest.approx(float(error.square().mean()))
    found = float(reconstruction_loss(denoiser, x, sigma, eps, None))
    assert found == pytest.approx(float((c.out * error).square().mean()))


def test_what_each_is_trained_to_give() -> None:
    """ε, v = a ε − b x, x, ε − x, and EDM's (x − p y)/q."""
    for name in EVERY:
        denoiser, x, eps, sigma = rows(name)
        c = denoiser.coefficients(x, sigma)
        a, b = c.signal, c.noise
        wanted = {
            "epsilon": eps,
            "v": a * eps - b * x,
            "sample": x,
            "flow": eps - x,
            "edm": (x - c.skip * c.noised(x, eps)) / c.out,
        }[name.split(",")[0]]
        denoiser.network = Given(wanted)
        assert float(denoising_loss(denoiser, x, sigma, eps, None)) < 1e-18, name


@pytest.mark.parametrize("name", ["v, zero", "sample, zero", "flow"])
def test_pure_noise(name: str) -> None:
    """σ = ∞: y = ε itself, x̂ = −F (v), F (x), z − F (flow), for D by its noise too."""
    denoiser, x, eps, sigma = rows(name)
    assert math.isinf(float(sigma[-1]))
    c = denoiser.coefficients(x, sigma)
    y, f = c.noised(x, eps), denoiser.raw(eps, c, None)
    assert torch.equal(y[-1], eps[-1])
    exact = {"v, zero": -f, "sample, zero": f, "flow": eps - f}[name]
    assert torch.equal(denoiser.of_noise(eps, sigma, None)[-1], exact[-1])
    noise = denoiser.predict_noise(x, sigma, eps)
    assert torch.equal(noise[-1], eps[-1])  # nothing else is in y
    assert float(c.c_noise[-1]) == {"flow": 1000.0}.get(name, 999.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", ["v, zero", "sample, zero", "flow"])
def test_half_precision_does_not_overflow(name: str, dtype: torch.dtype) -> None:
    """Inputs, outputs and their differences of every level are finite, and of the size of x and ε."""
    precondition, schedule = EVERY[name]
    denoiser, x, eps, _ = rows(name)
    every = schedule.table.float()
    x, eps = (torch.randn(2, 1000, 4, generator=stream("h"))).to(dtype)
    denoiser.network = Given(torch.randn(1000, 4, generator=stream("f")).to(dtype))
    other = NetworkDenoiser(Given(torch.randn(1000, 4, generator=stream("o")).to(dtype)), precondition)
    c = denoiser.coefficients(x, every)
    for values in (
        c.noised(x, eps),
        denoiser.of_noise(eps, every, None),
        denoiser.of_input(c.noised(x, eps), c, None),
        *denoised_difference(denoiser, other, x, every, eps, None),
    ):
        assert values.isfinite().all()
        assert values.abs().max() < 20
    assert math.isfinite(float(denoising_loss(denoiser, x, every, eps, None)))


def test_a_level_is_told_as_its_timestep() -> None:
    """Whole numbers of the table for betas; 1000 t of a flow, shifted or not."""
    for schedule, precondition in ((VP, EpsPreconditioning(VP)), (ZERO, VPreconditioning(ZERO))):
        for dtype in (torch.float32, F64):
            told = precondition(schedule.table.to(dtype)).c_noise
            assert torch.equal(told, torch.arange(1000).to(dtype))
    told = FlowPreconditioning(FLOW)(FLOW.table).c_noise
    i = torch.arange(1, 1001, dtype=F64)
    torch.testing.assert_close(told, 1000 * 3 * i / (1000 + 2 * i), rtol=1e-12, atol=0)
