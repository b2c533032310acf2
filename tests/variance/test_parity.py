import math

import pytest
import torch
from torch import Tensor

from carv_distill.carv import NOISES, Draws, Proposal, average_residual, stream
from carv_distill.carv.estimator import Residual
from carv_distill.carv.random_numbers import draw_noise
from carv_distill.teachers.denoiser import GaussianDenoiser
from carv_distill.teachers.schedule import EDMSchedule
from carv_distill.variance import CountSketch, Estimate, NoiseParity, Pipeline

F64 = torch.float64
COUPLED = ("antithetic", "zero_sum")


def hermite(degree: int, x: Tensor) -> Tensor:
    """Probabilists' Hermite polynomial He_1, He_2 or He_3."""
    return {1: x, 2: x**2 - 1, 3: x**3 - 3 * x}[degree]


def pipeline_of(residual: Residual) -> tuple[Pipeline, list[Tensor]]:
    """x_r = (1 + 0.3 z_r) θ in 16 dimensions, with a random z_r of each sample: J is (1 + 0.3 z_r) I."""
    theta = torch.linspace(-1, 1, 16, dtype=F64, requires_grad=True)

    def pipeline(upstream: int, generator: torch.Generator) -> tuple[Tensor, Residual]:
        z = torch.randn(upstream, 1, generator=generator, dtype=F64)
        return theta * (1 + 0.3 * z), residual

    return pipeline, [theta]


def measure(residual: Residual, *key: int | str, **options: object) -> NoiseParity:
    pipeline, parameters = pipeline_of(residual)
    return NoiseParity.measure(pipeline, parameters, stream("parity", *key), **options)  # type: ignore[arg-type]


def polynomial(degree: int) -> Residual:
    return lambda x, u, eps, index: hermite(degree, eps)


@pytest.mark.parametrize("coupling", COUPLED)
@pytest.mark.parametrize("draws", [2, 4, 8])
def test_a_gaussian_teacher_at_one_level_leaves_no_noise(coupling: str, draws: int) -> None:
    """D_fake − D_teacher of Gaussians is affine in ε: at one noise level the mean over coupled noises is its
    value at ε = 0 to rounding (the noise's size, σ = 2, times 1e-15), so its variance is below 1e-28."""
    teacher = GaussianDenoiser(torch.tensor([1.0, -0.5], dtype=F64), torch.tensor(0.25, dtype=F64))
    fake = GaussianDenoiser(torch.tensor([0.2, 0.3], dtype=F64), torch.tensor([0.5, 0.1], dtype=F64))
    x = torch.tensor([[0.3, 0.4], [-1.5, 2.0]], dtype=F64).repeat(500, 1)

    def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
        sigma = EDMSchedule().sigma(u)
        x_t = x + sigma[:, None] * eps
        return fake(x_t, sigma) - teacher(x_t, sigma)

    u = torch.full((1000, draws), 0.6, dtype=F64)
    eps = draw_noise(1000, draws, (2,), coupling, stream("gauss"), torch.device("cpu"), F64)
    direction = average_residual(residual, x, Draws(u, torch.ones_like(u), eps))
    exact = residual(x, u[:, 0], torch.zeros_like(x), torch.arange(1000))
    assert (direction - exact).abs().max() < 1e-14
    assert (direction - exact).square().mean(0).sum() < 1e-28


# ---------------------------------------------------------------- measured

FIXED = Proposal.from_weights(torch.tensor([0.0, 1.0, 0.0]))


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_measured_factors_are_the_closed_forms(degree: int) -> None:
    """One level, He_m of each coordinate, K = 4: both factors within 4 SE (relative SE below 0.1), 400
    upstream samples; the odd and even parts are all or nothing."""
    parity = measure(polynomial(degree), "factor", degree, upstreams=400, draws=4)
    for coupling in COUPLED:
        factor = parity.factors[coupling]
        exact = NOISES[coupling].hermite_factor(degree, 4)
        assert abs(factor.value - exact) <= 4 * factor.se + 1e-12
        assert factor.se <= 0.1 * exact + 1e-12
    assert parity.even.value / parity.iid.value == pytest.approx(1 - degree % 2, abs=1e-12)
    assert (parity.draws, parity.upstreams) == (4, 400)


def test_odd_and_even_parts_add_up() -> None:
    """r = 2 He_1 + He_2 in 16 dimensions, K = 4, q = 3 in one bin (ω = 1/3), E J² = 1.09: the odd part is
    1.09 · 16 · 4/(9·4), the even one half of it; antithetic's factor is 2·2/6, zero-sum's (4/3)·2/6: all
    within 4 SE, 400 upstream samples."""
    parity = measure(lambda x, u, eps, i: 2 * eps + eps**2 - 1, "split", proposal=FIXED, upstreams=400)
    for estimate, exact in (
        (parity.odd, 1.09 * 16 / 9),
        (parity.even, 1.09 * 16 / 18),
        (parity.iid, 1.09 * 16 / 6),
        (parity.factors["antithetic"], 2 / 3),
        (parity.factors["zero_sum"], 4 / 9),
    ):
        assert abs(estimate.value - exact) < 4 * estimate.se
        assert estimate.se < 0.1 * exact
    assert parity.iid.value == pytest.approx(parity.odd.value + parity.even.value)


def test_pairs_of_different_levels_do_not_cancel_fully() -> None:
    """r = u ε, K = 2 strata: antithetic keeps E(u_1 − u_2)²/E(u_1² + u_2²), E over u_1 in [0, ½), u_2 in
    [½, 1): (1/24 + 1/4)/(2/3) = 7/16, within 4 SE, 400 samples."""
    parity = measure(lambda x, u, eps, i: u[:, None] * eps, "levels", upstreams=400, draws=2)
    assert abs(parity.factors["antithetic"].value - 7 / 16) < 4 * parity.factors["antithetic"].se
    assert parity.factors["antithetic"].se < 0.05


def test_the_gate_takes_what_surely_helps() -> None:
    """An odd residual gets a coupling; an even one none, where pairs double the variance and zero-sum noises
    of K = 4 add a third."""
    assert measure(polynomial(3), "gate").gate() == "antithetic"
    even = measure(polynomial(2), "gate")
    assert even.gate() == "iid"
    assert even.factors["antithetic"].low > 1
    assert measure(polynomial(1), "gate").gate() in COUPLED


def parity_with(antithetic: Estimate, zero_sum: Estimate) -> NoiseParity:
    one = Estimate(1.0, 0.1, 0.8, 1.2)
    return NoiseParity(one, one, one, {"antithetic": antithetic, "zero_sum": zero_sum}, 4, 32)


def test_the_gate_looks_at_the_upper_end() -> None:
    """A factor of 0.5 whose interval reaches 1.1 is refused; of two sure ones the smaller is taken."""
    unsure, sure, surer = (
        Estimate(0.5, 0.3, 0.2, 1.1),
        Estimate(0.8, 0.05, 0.7, 0.9),
        Estimate(0.1, 0, 0, 0.2),
    )
    assert parity_with(unsure, sure).gate() == "zero_sum"
    assert parity_with(surer, sure).gate() == "antithetic"
    assert parity_with(unsure, unsure).gate() == "iid"
    assert parity_with(unsure, sure).gate(limit=0.85) == "iid"


def test_a_residual_without_noise_is_left_alone() -> None:
    """No variance over ε: the factors are NaN, and the gate says iid."""
    parity = measure(lambda x, u, eps, i: x * u[:, None], "none")
    assert parity.iid.value == 0
    assert math.isnan(parity.factors["antithetic"].value)
    assert parity.gate() == "iid"


def test_chunk_and_projection_change_no_expectation() -> None:
    """A chunk gives the same bits; a sketch of 16 coordinates to 64 keeps the factor within 4 SE."""
    whole = measure(polynomial(2), "chunk")
    assert measure(polynomial(2), "chunk", chunk=3) == whole
    sketched = measure(polynomial(2), "chunk", project=CountSketch(64)).factors["antithetic"]
    assert abs(sketched.value - whole.factors["antithetic"].value) < 4 * sketched.se


def test_too_few_replicates_are_refused() -> None:
    """Each count is named."""
    for name in ("upstreams", "draws", "noises"):
        with pytest.raises(ValueError, match=rf"^{name} must be at least 2, found 1$"):
            measure(polynomial(1), "few", **{name: 1})
    with pytest.raises(ValueError, match=r"^chunk must be at least 1, found 0$"):
        measure(polynomial(1), "chunk", chunk=0)
