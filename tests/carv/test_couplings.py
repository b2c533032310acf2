import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from carv_distill.carv import NOISES, NoiseLevelSampler, Proposal, stream
from carv_distill.carv.random_numbers import draw_noise

N = 100_000


def noises(coupling: str, draws: int, count: int = N) -> Tensor:
    """ε of `count` upstream samples with one coordinate each, [count, K]."""
    g = stream("noise", coupling, draws)
    return draw_noise(count, draws, (), coupling, g, torch.device("cpu"), torch.float64)


def hermite(degree: int, x: Tensor) -> Tensor:
    """Probabilists' Hermite polynomial He_1 … He_4; its variance under N(0, 1) is degree!."""
    return {1: x, 2: x**2 - 1, 3: x**3 - 3 * x, 4: x**4 - 6 * x**2 + 3}[degree]


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


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
@pytest.mark.parametrize("draws", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("coupling", NOISES)
def test_hermite_factors_against_simulation(coupling: str, draws: int, degree: int) -> None:
    """K · Var(mean_k He_m(ε_k))/m! is the closed form within 4 SE, SE from the spread of the squared means
    (which have zero mean); 1e-12 for the rounding of an exact 0."""
    square = hermite(degree, noises(coupling, draws)).mean(1).square() * draws / math.factorial(degree)
    exact = NOISES[coupling].hermite_factor(degree, draws)
    assert abs(square.mean() - exact) <= 4 * square.std() / N**0.5 + 1e-12


def test_hermite_factors_by_hand() -> None:
    """1 + (−1)^m for pairs, 1 + (K−1)(−1/(K−1))^m for zero-sum; zero-sum at K = 2 is a pair."""
    antithetic, zero_sum = NOISES["antithetic"], NOISES["zero_sum"]
    assert [antithetic.hermite_factor(m, 4) for m in (1, 2, 3, 4)] == [0, 2, 0, 2]
    assert antithetic.hermite_factor(1, 5) == pytest.approx(1 / 5)
    assert [zero_sum.hermite_factor(m, 3) for m in (1, 2, 3)] == [0, 1.5, 0.75]
    assert [zero_sum.hermite_factor(m, 2) for m in (1, 2, 3, 4)] == [0, 2, 0, 2]
    assert zero_sum.hermite_factor(2, 4) == pytest.approx(4 / 3)
    assert [c.hermite_factor(2, 1) for c in NOISES.values()] == [1, 1, 1]


def test_noises_are_what_they_were() -> None:
    """R = 2 at K = 1, 3 and 4, as the function before these objects gave them, but for the last bits of a
    logarithm and a cosine; then the next number of the stream, which is exact."""
    golden = json.loads((Path(__file__).parent / "golden_draws.json").read_text())["noises"]
    for coupling in NOISES:
        for draws, (*expected, after) in zip((1, 3, 4), golden[coupling], strict=True):
            g = stream("golden", coupling, draws)
            eps = draw_noise(2, draws, (1,), coupling, g, torch.device("cpu"), torch.float64)
            assert eps.flatten().tolist() == pytest.approx(expected, rel=1e-13)
            assert torch.rand((), generator=g, dtype=torch.float64).item() == after


def test_groups_of_draws() -> None:
    """Within a group noises depend on each other; only antithetic ones want an even K."""
    assert {name: c.group for name, c in NOISES.items()} == {"iid": 1, "antithetic": 2, "zero_sum": None}
    assert [name for name, c in NOISES.items() if c.even_draws] == ["antithetic"]


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
