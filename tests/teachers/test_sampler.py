import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from carv_distill.carv import stream
from carv_distill.teachers.condition import Cond
from carv_distill.teachers.denoiser import Denoiser, GaussianDenoiser, NetworkDenoiser
from carv_distill.teachers.parametrisation import (
    EpsPreconditioning,
    FlowPreconditioning,
    Preconditioning,
    VPreconditioning,
)
from carv_distill.teachers.sampler import ddim_sample, heun_sample, sample, solver_of
from carv_distill.teachers.schedule import DiscreteSchedule, EDMSchedule, FlowSchedule, VPSchedule
from tests.helpers.exact import GaussianMixtureDenoiser

F64 = torch.float64
MEAN = torch.tensor([1.0, -0.5, 0.0], dtype=F64)
VARIANCE = torch.tensor([0.25, 0.5, 1.0], dtype=F64)
TEACHER = GaussianDenoiser(MEAN, VARIANCE)
SCHEDULE = EDMSchedule()


def exact_flow(z: Tensor) -> Tensor:
    """The ODE keeps (x − μ)/√(s² + σ²) constant; then the sampler's last Euler step, x = D(x, σ_min)."""
    low, high = SCHEDULE.sigma_min, SCHEDULE.sigma_max
    x = MEAN + ((VARIANCE + low**2) / (VARIANCE + high**2)).sqrt() * (high * z - MEAN)
    return TEACHER(x, torch.full((len(z),), low, dtype=F64))


def error(steps: int) -> float:
    z = torch.randn(200, 3, generator=stream("flow"), dtype=F64)
    return (heun_sample(TEACHER, SCHEDULE, z, steps=steps) - exact_flow(z)).abs().max().item()


def test_second_order_in_the_steps() -> None:
    """Twice the steps make a quarter of the error against the exact flow: ratio 4 within 10 %."""
    errors = [error(steps) for steps in (40, 80, 160)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_samples_of_a_gaussian_teacher_have_its_moments() -> None:
    """Mean and variance of n = 40 000 samples within 4 SE (√(s²/n), s²√(2/n)) of the data's, plus 0.01.

    0.01 bounds what is not chance: Heun's map of a Gaussian teacher is x = a + b z, so a − μ (from starting
    at σ_max z and not at σ_max z + μ: s μ/σ_max ≤ 0.007) and b² − s² are read off at z = 0 and z = 1.
    """
    n, bias = 40_000, 0.01
    zero_one = torch.tensor([[0.0] * 3, [1.0] * 3], dtype=F64)
    a, a_plus_b = heun_sample(TEACHER, SCHEDULE, zero_one, steps=80)
    assert ((a - MEAN).abs() < bias).all()
    assert (((a_plus_b - a).square() - VARIANCE).abs() < bias).all()
    z = torch.randn(n, 3, generator=stream("moments"), dtype=F64)
    x = heun_sample(TEACHER, SCHEDULE, z, steps=80)
    assert ((x.mean(0) - MEAN).abs() < 4 * (VARIANCE / n).sqrt() + bias).all()
    assert ((x.var(0) - VARIANCE).abs() < 4 * VARIANCE * (2 / n) ** 0.5 + bias).all()


def test_samples_of_a_mixture_land_on_its_modes() -> None:
    """Two narrow modes get half of 2000 samples each, within 4 SE = 4/(2√n), and all samples lie near one."""
    modes = torch.tensor([[2.0, 0.0], [-2.0, 0.0]], dtype=F64)
    teacher = GaussianMixtureDenoiser(modes, torch.full((2,), 0.01, dtype=F64))
    z = torch.randn(2000, 2, generator=stream("modes"), dtype=F64)
    distance = torch.cdist(heun_sample(teacher, SCHEDULE, z, steps=30), modes)
    assert (distance.min(1).values < 0.6).all()
    assert abs((distance[:, 0] < distance[:, 1]).double().mean() - 0.5) < 4 * 0.5 / 2000**0.5


class Counting(Denoiser):
    """Passes to a base and remembers the calls."""

    def __init__(self, base: Denoiser) -> None:
        super().__init__()
        self.base = base
        self.calls: list[tuple[Tensor, Tensor | None]] = []

    def forward(self, x_t: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        self.calls.append((sigma, cond))
        assert not torch.is_grad_enabled()
        return self.base(x_t, sigma, cond)


def test_calls_and_levels() -> None:
    """2·steps − 1 calls, from σ_max to σ_min, each with the condition, and no graph."""
    counting = Counting(GaussianMixtureDenoiser(torch.eye(2), torch.ones(2)))
    cond = torch.tensor([0, 1, 0])
    x = heun_sample(counting, SCHEDULE, torch.zeros(3, 2), cond, steps=5)
    assert x.shape == (3, 2)
    assert x.dtype == torch.float32
    assert len(counting.calls) == 9
    assert all(c is cond for _, c in counting.calls)
    torch.testing.assert_close(counting.calls[0][0], torch.full((3,), 80.0))
    torch.testing.assert_close(counting.calls[-1][0], torch.full((3,), 0.002), rtol=1e-4, atol=0)


def test_one_step_is_refused() -> None:
    """At least two steps."""
    with pytest.raises(ValueError, match=r"^steps must be at least 2, found 1$"):
        heun_sample(TEACHER, SCHEDULE, torch.zeros(1, 3, dtype=F64), steps=1)


class Ideal(nn.Module):
    """F of the data N(μ, s²) under a parametrisation, from the exact D of the level that it is told."""

    def __init__(self, precondition: Preconditioning, schedule: DiscreteSchedule) -> None:
        super().__init__()
        self.precondition, self.schedule = precondition, schedule

    def forward(self, y: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        whole = isinstance(self.schedule, VPSchedule)
        t = c_noise / self.schedule.timesteps
        sigma = self.schedule.table[c_noise.long()] if whole else t / (1 - t)
        c = self.precondition(sigma).shaped(y.ndim)
        gain = VARIANCE * c.signal / (VARIANCE * c.signal**2 + c.noise**2)
        x = MEAN + gain * (y - c.signal * MEAN)
        return (x - c.skip * y) / c.out


@pytest.mark.parametrize("kind", ["epsilon", "v", "flow", "zero"])
def test_ddim_follows_the_exact_flow(kind: str) -> None:
    """First order in the steps: of z at the last level (y − a μ)/√(s² a² + b²) stays constant."""
    betas = DDPMScheduler(1000, rescale_betas_zero_snr=kind == "zero").betas
    schedule = FlowSchedule(1000, 2.0) if kind == "flow" else VPSchedule(betas)
    make = {"flow": FlowPreconditioning, "epsilon": EpsPreconditioning}.get(kind, VPreconditioning)
    precondition = make(schedule)  # type: ignore[operator]
    denoiser = NetworkDenoiser(Ideal(precondition, schedule), precondition)
    z = torch.randn(50, 3, generator=stream("ddim"), dtype=F64)
    first = precondition(schedule.table[-1:])
    constant = (z - first.signal * MEAN) / (VARIANCE * first.signal**2 + first.noise**2).sqrt()
    exact = MEAN + VARIANCE.sqrt() * constant
    errors = [
        float((ddim_sample(denoiser, schedule, z, None, n) - exact).abs().max()) for n in (25, 100, 500)
    ]
    assert errors[1] < 0.4 * errors[0]
    assert errors[2] < 0.3 * errors[1]
    assert errors[2] < 0.02
    one = ddim_sample(denoiser, schedule, z, None, 1)
    assert torch.equal(one, denoiser.of_noise(z, schedule.table[-1:].expand(50), None))
    by, name = (ddim_sample, "DDIM") if kind in ("flow", "zero") else (heun_sample, "Heun")
    assert torch.equal(sample(denoiser, schedule, z, None, 9), by(denoiser, schedule, z, None, 9))
    assert solver_of(schedule) == name


@pytest.mark.parametrize("steps", [0, 1001])
def test_ddim_steps_out_of_range(steps: int) -> None:
    schedule = FlowSchedule()
    denoiser = NetworkDenoiser(nn.Identity(), FlowPreconditioning(schedule))
    with pytest.raises(ValueError, match=rf"^steps must be 1 to 1000, found {steps}$"):
        ddim_sample(denoiser, schedule, torch.zeros(1, 3), None, steps)
