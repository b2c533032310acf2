import copy
import math

import pytest
import torch
from diffusers import DDPMScheduler

from carv_distill.teachers.schedule import EDMSchedule, FlowSchedule, VPSchedule

BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
DTYPES = (torch.float32, torch.float64)


def vp(name: str) -> tuple[VPSchedule, DDPMScheduler]:
    scheduler = DDPMScheduler(beta_schedule=name, beta_start=0.00085, beta_end=0.012)
    return VPSchedule(scheduler.betas), scheduler


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("schedule", [EDMSchedule(), EDMSchedule(0.01, 20.0, 3.0)])
def test_edm_goes_from_sigma_min_to_sigma_max(schedule: EDMSchedule, dtype: torch.dtype) -> None:
    """σ(0) = σ_min, σ(1) = σ_max, strictly increasing between, in u's dtype and shape."""
    sigma = schedule.sigma(torch.linspace(0, 1, 1001, dtype=dtype))
    assert sigma.dtype == dtype
    rtol = 3e-6 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(sigma[0].item(), schedule.sigma_min, rtol=rtol, atol=0)
    torch.testing.assert_close(sigma[-1].item(), schedule.sigma_max, rtol=rtol, atol=0)
    assert (sigma.diff() > 0).all()
    assert schedule.sigma(torch.rand(2, 3, dtype=dtype)).shape == (2, 3)


def test_edm_equals_karras() -> None:
    """The levels of Karras et al. 2022, equation 5, for n = 18 steps: i/(n−1) = 1 − u."""
    i = torch.arange(18, dtype=torch.float64)
    karras = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(EDMSchedule().sigma(1 - i / 17), karras, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BETAS)
def test_vp_levels_are_those_of_diffusers(name: str, dtype: torch.dtype) -> None:
    """1/(1 + σ²) is DDPMScheduler's ᾱ_t, to the rounding of its float32 product (1000 factors)."""
    schedule, scheduler = vp(name)
    u = (torch.arange(1000, dtype=dtype) + 0.5) / 1000
    sigma = schedule.sigma(u)
    assert sigma.dtype == dtype
    torch.testing.assert_close(
        1 / (1 + sigma.double().square()), scheduler.alphas_cumprod.double(), rtol=1e-4, atol=1e-9
    )
    assert (sigma.diff() > 0).all()
    assert (schedule.timesteps, schedule.sigma_min) == (1000, schedule.table[0])
    assert schedule.sigma_max == schedule.table[-1]
    assert schedule.sigma(torch.tensor([0.0, 1.0], dtype=dtype)).tolist() == sigma[[0, -1]].tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BETAS)
def test_timestep_inverts_sigma_exactly(name: str, dtype: torch.dtype) -> None:
    """timestep(σ(u)) = ⌊u T⌋ bit for bit, for every t, contiguous or not, 1 000 or 7 at a time."""
    schedule, _ = vp(name)
    t = torch.arange(1000, dtype=dtype)
    u = (t + 0.5) / 1000
    assert torch.equal(schedule.timestep(schedule.sigma(u)), t)
    assert torch.equal(schedule.timestep(schedule.sigma(u)[::3]), t[::3])
    assert torch.equal(torch.cat([schedule.timestep(s) for s in schedule.sigma(u).split(7)]), t)
    assert schedule.timestep(schedule.sigma(u)).dtype == dtype


def test_timestep_interpolates_in_log_sigma() -> None:
    """Half-way in ln σ is half a step; beyond the table is its end."""
    schedule, _ = vp("linear")
    middle = (schedule.table[10] * schedule.table[11]).sqrt()
    outside = torch.tensor([schedule.sigma_min / 2, schedule.sigma_max * 2], dtype=torch.float64)
    found = schedule.timestep(torch.cat([middle.view(1), outside]))
    torch.testing.assert_close(found, torch.tensor([10.5, 0, 999], dtype=torch.float64), rtol=0, atol=1e-9)


def test_vp_schedules_are_equal_by_value() -> None:
    """A deep copy is the same schedule, another table is not: preconditionings compare by it."""
    schedule, _ = vp("linear")
    assert copy.deepcopy(schedule) == schedule
    assert hash(copy.deepcopy(schedule)) == hash(schedule)
    assert schedule != vp("scaled_linear")[0]
    assert schedule != EDMSchedule()


def test_vp_takes_any_table() -> None:
    """Two betas by hand: ᾱ = 0.9, 0.72."""
    schedule = VPSchedule(torch.tensor([0.1, 0.2], dtype=torch.float64))
    assert schedule.sigma_min == pytest.approx(math.sqrt(0.1 / 0.9))
    assert schedule.sigma_max == pytest.approx(math.sqrt(0.28 / 0.72))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["vp", "flow"])
def test_the_timestep_of_a_level(kind: str, dtype: torch.dtype) -> None:
    """Of every level of the table, in any order, a flow's infinite one among them."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    schedule = VPSchedule(betas) if kind == "vp" else FlowSchedule(1000, 3.0)
    t = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    sigma = schedule.sigma_at(t, torch.zeros(1, dtype=dtype))
    assert torch.equal(schedule.place_of(sigma), t)
