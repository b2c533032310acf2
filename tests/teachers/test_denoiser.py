import copy
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EDMEulerScheduler
from torch import Tensor, nn

from carv_distill.carv import stream
from carv_distill.teachers.denoiser import (
    Denoiser,
    GaussianDenoiser,
    GuidedDenoiser,
    NetworkDenoiser,
    denoised_difference,
)
from carv_distill.teachers.parametrisation import (
    EDMPreconditioning,
    EpsPreconditioning,
    Preconditioning,
    SamplePreconditioning,
    VPreconditioning,
)
from carv_distill.teachers.schedule import EDMSchedule, VPSchedule

F64 = torch.float64
SCHEDULER = DDPMScheduler(clip_sample=False)
VP = VPSchedule(SCHEDULER.betas)
VP_KINDS = {"epsilon": EpsPreconditioning, "v_prediction": VPreconditioning, "sample": SamplePreconditioning}
EXACT = GaussianDenoiser(torch.tensor([[0.5, -1.0], [0.0, 2.0]], dtype=F64), torch.tensor(0.3, dtype=F64))


class Constant(nn.Module):
    """A raw network that gives a fixed output and remembers what it was called with."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None) -> Tensor:
        self.seen = (x, c_noise, cond)
        return self.output


class ExactNetwork(nn.Module):
    """The exact raw network of :data:`EXACT` for one parametrisation, from its scaled input and c_noise."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None) -> Tensor:
        if self.kind == "edm":
            sigma = (4 * c_noise).exp().view(-1, 1, 1)
            x_t = x * (sigma**2 + 0.25).sqrt()
            skip, out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / (sigma**2 + 0.25).sqrt()
            return (EXACT(x_t, sigma.flatten()) - skip * x_t) / out
        sigma = VP.table[c_noise.long()].view(-1, 1, 1)
        alpha = 1 / (1 + sigma**2).sqrt()
        x_t = x / alpha
        x0 = EXACT(x_t, sigma.flatten())
        eps = (x_t - x0) / sigma
        return {"epsilon": eps, "v_prediction": alpha * eps - alpha * sigma * x0, "sample": x0}[self.kind]


class Tiny(nn.Module):
    """A smooth raw network x ↦ tanh(w x) + shift · label."""

    def __init__(self, w: float, shift: float = 0.0) -> None:
        super().__init__()
        self.w, self.shift = w, shift

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None) -> Tensor:
        label = 0 if cond is None else self.shift * cond.view(-1, *[1] * (x.ndim - 1))
        return torch.tanh(self.w * x) + label


def noisy(n: int, *shape: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(n, *shape, generator=stream("noisy", n), dtype=F64).to(dtype)


def test_edm_coefficients_are_those_of_diffusers() -> None:
    """c_in x_t, c_noise and D equal EDMEulerScheduler.precondition_{inputs, noise, outputs} at each σ."""
    scheduler = EDMEulerScheduler(sigma_data=0.7)
    x_t, raw = noisy(1, 3, 4, 4), noisy(2, 3, 4, 4)[1:]
    for sigma in (0.002, 0.3, 1.0, 80.0):
        network = Constant(raw)
        level = torch.tensor([sigma], dtype=F64)
        denoised = NetworkDenoiser(network, EDMPreconditioning(0.7))(x_t, level)
        torch.testing.assert_close(network.seen[0], scheduler.precondition_inputs(x_t, level))
        torch.testing.assert_close(network.seen[1], scheduler.precondition_noise(level))
        torch.testing.assert_close(denoised, scheduler.precondition_outputs(x_t, raw, level))


@pytest.mark.parametrize("other", [DDPMScheduler, DDIMScheduler])
@pytest.mark.parametrize("kind", VP_KINDS)
def test_vp_parametrisations_are_those_of_diffusers(kind: str, other: Any) -> None:
    """D(x_t, σ_t) is `pred_original_sample` of DDPM's and DDIM's step on α x_t with the same raw output."""
    scheduler = other(clip_sample=False, prediction_type=kind)
    scheduler.set_timesteps(1000)
    x_t, raw = noisy(1, 3, 4, 4), noisy(2, 3, 4, 4)[1:]
    for t in (1, 20, 500, 999):
        sigma = VP.table[t : t + 1]
        alpha = 1 / (1 + sigma**2).sqrt()
        network = Constant(raw)
        denoised = NetworkDenoiser(network, VP_KINDS[kind](VP))(x_t, sigma)
        original = scheduler.step(raw, t, alpha * x_t, generator=stream("step")).pred_original_sample
        assert network.seen[1].tolist() == [t]
        torch.testing.assert_close(network.seen[0], alpha * x_t)
        # diffusers' ᾱ is a float32 product of up to 1000 factors
        torch.testing.assert_close(denoised, original, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["edm", *VP_KINDS])
def test_exact_raw_networks_give_the_exact_teacher(kind: str) -> None:
    """With F the exact ε, v, x or EDM target of Gaussian data, D is the Gaussian teacher to 1e-9."""
    precondition: Preconditioning = EDMPreconditioning() if kind == "edm" else VP_KINDS[kind](VP)
    u = torch.tensor([0.0, 0.01, 0.3, 0.7, 0.999], dtype=F64)
    sigma = EDMSchedule().sigma(u) if kind == "edm" else VP.sigma(u)
    x_t = noisy(5, 2, 2) * (1 + sigma.view(-1, 1, 1))
    denoised = NetworkDenoiser(ExactNetwork(kind), precondition)(x_t, sigma)
    torch.testing.assert_close(denoised, EXACT(x_t, sigma), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 2, 4, 4), (5,)])
def test_any_trailing_shape(shape: tuple[int, ...]) -> None:
    """Row i of a batch equals the same row alone, for images, videos and vectors."""
    denoiser = NetworkDenoiser(Tiny(1.3), EDMPreconditioning())
    x_t, sigma = noisy(3, *shape), torch.tensor([0.1, 1.0, 10.0], dtype=F64)
    together = denoiser(x_t, sigma)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], denoiser(x_t[i : i + 1], sigma[i : i + 1]))


def test_the_precision_of_x_wins() -> None:
    """A network that answers in bfloat16 gives a float32 denoised."""

    class Half(nn.Module):
        def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None) -> Tensor:
            return x.bfloat16()

    x_t = noisy(2, 3, dtype=torch.float32)
    assert NetworkDenoiser(Half(), EDMPreconditioning())(x_t, torch.ones(2)).dtype == torch.float32


@pytest.mark.parametrize("scale", [0.0, 1.0, 0.3, 7.5])
@pytest.mark.parametrize("precondition", [EDMPreconditioning(), VPreconditioning(VP)])
def test_guidance(scale: float, precondition: Preconditioning) -> None:
    """D_∅ + s (D_cond − D_∅), each from the base denoiser by itself, null label 9."""
    base = NetworkDenoiser(Tiny(0.8, shift=0.1), precondition)
    guided = GuidedDenoiser(base, scale, torch.tensor(9))
    x_t, sigma, cond = noisy(3, 2, 2), VP.table[[10, 300, 800]], torch.tensor([1, 4, 2])
    null = base(x_t, sigma, torch.full((3,), 9))
    expected = null + scale * (base(x_t, sigma, cond) - null)
    torch.testing.assert_close(guided(x_t, sigma, cond), expected, rtol=1e-11, atol=1e-11)
    with pytest.raises(ValueError, match=r"^guidance needs a condition$"):
        guided(x_t, sigma)


class Plain(Denoiser):
    """Hides what a denoiser is, so that its difference is taken the plain way."""

    def __init__(self, base: Denoiser) -> None:
        super().__init__()
        self.base = base

    def forward(self, x_t: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.base(x_t, sigma, cond)


@pytest.mark.parametrize("precondition", [EDMPreconditioning(), EpsPreconditioning(VP), VPreconditioning(VP)])
def test_difference_is_the_plain_one_in_float64(precondition: Preconditioning) -> None:
    """(D_a − D_b, D_b) with and without the shared preconditioning agree to rounding, guidance included."""
    b = NetworkDenoiser(Tiny(1.0, 0.1), precondition)
    x_t, sigma, cond = noisy(4, 3), VP.table[[5, 100, 500, 999]], torch.tensor([0, 1, 2, 3])
    for a in (NetworkDenoiser(Tiny(1.01, 0.1), precondition), GuidedDenoiser(b, 3.0, torch.tensor(9))):
        difference, denoised_b = denoised_difference(a, b, x_t, sigma, 0 * x_t, cond)
        plain, plain_b = denoised_difference(Plain(a), Plain(b), x_t, sigma, 0 * x_t, cond)
        assert difference.abs().max() > 1e-3
        torch.testing.assert_close(difference, plain, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(denoised_b, plain_b, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(plain, a(x_t, sigma, cond) - b(x_t, sigma, cond), rtol=0, atol=0)


@pytest.mark.parametrize("precondition", [EDMPreconditioning(), EpsPreconditioning(VP), VPreconditioning(VP)])
def test_difference_does_not_cancel_at_small_sigma(precondition: Preconditioning) -> None:
    """At σ = 0.01 in float32 its root mean square error is below a tenth of the plain difference's."""
    a, b = NetworkDenoiser(Tiny(1.001), precondition), NetworkDenoiser(Tiny(1.0), precondition)
    x_t, sigma = noisy(1000, 8, dtype=torch.float32), torch.full((1000,), 0.01)
    exact, _ = denoised_difference(a, b, x_t.double(), sigma.double(), 0 * x_t.double(), None)
    ours = denoised_difference(a, b, x_t, sigma, 0 * x_t, None)[0].double() - exact
    plain = denoised_difference(Plain(a), Plain(b), x_t, sigma, 0 * x_t, None)[0].double() - exact
    assert ours.square().mean().sqrt() < plain.square().mean().sqrt() / 10


def test_a_copied_denoiser_still_shares_its_preconditioning() -> None:
    """A deep copy, whose schedule is another object, gives the same bits as the original."""
    b = NetworkDenoiser(Tiny(1.0), EpsPreconditioning(VP))
    a = NetworkDenoiser(Tiny(1.001), b.precondition)
    x_t, sigma = noisy(50, 8, dtype=torch.float32), torch.full((50,), 0.01)
    original = denoised_difference(a, b, x_t, sigma, 0 * x_t, None)[0]
    copied = denoised_difference(copy.deepcopy(a), b, x_t, sigma, 0 * x_t, None)[0]
    assert torch.equal(copied, original)
    assert not torch.equal(original, denoised_difference(Plain(a), b, x_t, sigma, 0 * x_t, None)[0])


def test_different_preconditionings_fall_back_to_the_plain_difference() -> None:
    """An ε- and a v-network are compared by their denoised outputs."""
    a, b = (
        NetworkDenoiser(Tiny(1.0), EpsPreconditioning(VP)),
        NetworkDenoiser(Tiny(1.0), VPreconditioning(VP)),
    )
    x_t, sigma = noisy(2, 3), VP.table[[50, 500]]
    difference, denoised_b = denoised_difference(a, b, x_t, sigma, 0 * x_t, None)
    assert torch.equal(difference, a(x_t, sigma) - b(x_t, sigma))
    assert torch.equal(denoised_b, b(x_t, sigma))


def test_a_denoiser_must_say_how() -> None:
    """The base class names the subclass that does not."""

    class Silent(Denoiser):
        pass

    with pytest.raises(TypeError, match=r"^Silent does not say how it denoises$"):
        Silent()(torch.zeros(1, 2), torch.ones(1))
