import pytest
import torch
from torch import Tensor

from carv_distill.carv import NOISES, NoiseLevelSampler, Proposal, stream
from carv_distill.carv.couplings import draw_noise

N = 100_000


def noises(coupling: str, draws: int, count: int = N) -> Tensor:
    """ε of `count` upstream samples with one coordinate each, [count, K]."""
    g = stream("noise", coupling, draws)
    return draw_noise(count, draws, (), coupling, g, torch.device("cpu"), torch.float64)


def hermite(degree: int, x: Tensor) -> Tensor:
    """Probabilists' Hermite polynomial He_1, He_2 or He_3; its variance under N(0, 1) is degree!."""
    return {1: x, 2: x**2 - 1, 3: x**3 - 3 * x}[degree]


@pytest.mark.parametrize("draws", [1, 4, 5])
@pytest.mark.parametrize("coupling", NOISES)
def test_each_noise_is_standard_normal(coupling: str, draws: int) -> None:
    """Moments 1 … 4 of every ε_k are 0, 1, 0, 3 within 4 SE, SE = √(Var(x^m)/n), Var = 1, 2, 15, 96."""
    eps = noises(coupling, draws)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert ((eps**power).mean(0) - moment).abs().max() < 4 * (variance / N) ** 0.5


def test_antithetic_pairs_cancel_exactly() -> None:
    """Draws 2j and 2j + 1 sum to zero bit for bit; an odd K leaves the last one alone."""
    eps = noises("antithetic", 5, 100)
    assert (eps[:, 0] + eps[:, 1] == 0).all()
    assert (eps[:, 2] + eps[:, 3] == 0).all()
    assert eps[:, 4].abs().min() > 0
    assert not torch.equal(eps[:, 0].abs(), eps[:, 2].abs())


@pytest.mark.parametrize("draws", [2, 3, 8])
def test_zero_sum_sums_to_zero(draws: int) -> None:
    """Σ_k ε_k vanishes to rounding."""
    assert noises("zero_sum", draws, 1000).sum(1).abs().max() < 1e-14


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("draws", [2, 4])
@pytest.mark.parametrize("coupling", NOISES)
def test_variance_factor_of_hermite_components(coupling: str, draws: int, degree: int) -> None:
    """K Var(mean He_m)/m! is 1, 1 + (−1)^m or 1 + (K−1)(−1/(K−1))^m within 4 SE of the sample variance."""
    factor = {
        "iid": 1.0,
        "antithetic": 1.0 + (-1) ** degree,
        "zero_sum": 1 + (draws - 1) * (-1 / (draws - 1)) ** degree,
    }[coupling]
    variance = draws / {1: 1, 2: 2, 3: 6}[degree]
    square = hermite(degree, noises(coupling, draws)).mean(1).square() * variance
    se = square.std() / N**0.5
    assert (square.mean() - factor).abs() <= 4 * se + 1e-12


@pytest.mark.parametrize("coupling", NOISES)
def test_shape_and_dtype(coupling: str) -> None:
    """[R, K, *shape] for any shape, in the dtype asked for, and different per upstream sample."""
    for shape in ((3, 4, 4), (2, 3, 4, 4), (7,)):
        for dtype in (torch.float32, torch.float64):
            eps = draw_noise(2, 3, shape, coupling, stream("shape"), torch.device("cpu"), dtype)
            assert eps.shape == (2, 3, *shape)
            assert eps.dtype == dtype
            assert not torch.equal(eps[0], eps[1])


@pytest.mark.parametrize("coupling", ["antithetic", "zero_sum"])
def test_coupling_removes_the_noise_of_a_linear_residual(coupling: str) -> None:
    """A residual linear in ε at one fixed level (a Gaussian teacher) has no variance left from ε."""
    sampler = NoiseLevelSampler(Proposal.uniform(), noise=coupling)
    draws = sampler.draw(50, 4, (3,), stream("linear"), dtype=torch.float64)
    assert (0.7 * draws.eps + 1.0).mean(1).sub(1).abs().max() < 1e-14
