"""The learned multiple of ε, on a Gaussian teacher where the best one is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from carv_distill.carv import NoiseCoefficient

S2 = 0.7
"""Variance of the data."""


def predicted(x: Tensor, sigma: Tensor, eps: Tensor) -> Tensor:
    """E[ε | x_t] for data N(0, S2 I): σ (x + σ ε)/(S2 + σ²)."""
    return sigma[:, None] * (x + sigma[:, None] * eps) / (S2 + sigma.square()[:, None])


def draws(seed: int, count: int = 400, dim: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """(σ, x, ε)."""
    g = torch.Generator().manual_seed(seed)
    sigma = torch.full((count,), 0.8, dtype=torch.float64)
    x, eps = (torch.randn(count, dim, generator=g, dtype=torch.float64) for _ in range(2))
    return sigma, S2**0.5 * x, eps


def test_it_finds_the_coefficient_that_removes_all_variance_of_the_noise() -> None:
    """c = σ²/(s² + σ²) with x_t = x + σ ε: then ε̂ − c ε = σ x/(s² + σ²), without ε."""
    sigma, x, eps = draws(0)
    u = torch.full_like(sigma, 0.3)
    c = NoiseCoefficient(bins=4, decay=1.0)
    assert torch.equal(c.at(0, u), torch.ones_like(u))  # nothing known yet
    c.observe(0, u, predicted(x, sigma, eps), eps)
    best = 0.8**2 / (S2 + 0.8**2)
    # Var of Σ⟨x, ε⟩/Σ‖ε‖² over n·d numbers
    se = 0.8 * S2**0.5 / (S2 + 0.64) / (400 * 16) ** 0.5
    assert abs(float(c.at(1, u)[0]) - best) < 4 * se
    other = torch.full_like(u, 0.9)
    assert torch.equal(c.at(1, other), torch.ones_like(u))  # no draws in that bin
    sigma, x, eps = draws(1)
    residual = predicted(x, sigma, eps) - c.at(1, u)[:, None] * eps
    exact = sigma[:, None] * x / (S2 + sigma.square()[:, None])
    assert (residual - exact).square().mean() < 1e-3 * eps.square().mean()


def test_the_mean_stays_and_one_fitted_on_its_own_draws_would_move_it() -> None:
    """At a fixed x ≠ 0 the mean residual is σ x/(s² + σ²); 3,000 replicates of four draws, 4 SE."""
    replicates, dim = 3000, 8
    g = torch.Generator().manual_seed(2)
    x = torch.ones(1, dim, dtype=torch.float64)
    sigma = torch.full((4,), 0.8, dtype=torch.float64)
    u = torch.zeros(4, dtype=torch.float64)
    past = NoiseCoefficient(bins=1, decay=0.99)
    honest, greedy = [], []
    for step in range(replicates):
        eps = torch.randn(4, dim, generator=g, dtype=torch.float64)
        guess = predicted(x, sigma, eps)
        honest.append((guess - past.at(step, u)[:, None] * eps).mean())
        past.observe(step, u, guess, eps)
        own = (guess * eps).sum() / eps.square().sum()
        greedy.append((guess - own * eps).mean())
    exact = 0.8 / (S2 + 0.64)
    for values, biased in ((honest, False), (greedy, True)):
        found = torch.stack(values)
        se = float(found.std()) / replicates**0.5
        assert (abs(float(found.mean()) - exact) > 4 * se) == biased


def test_the_coefficient_of_a_step_is_refused_once_it_was_observed() -> None:
    c = NoiseCoefficient(bins=2)
    u, eps = torch.zeros(3), torch.randn(3, 5)
    c.at(0, u)
    c.observe(0, u, eps, eps)
    assert torch.equal(c.at(0, u), torch.ones(3))  # taken before: still the same
    c.at(1, u)
    with pytest.raises(ValueError, match="the coefficient of step 0 was asked for after step 0"):
        c.at(0, u)


def test_rows_of_two_processes_teach_what_all_their_draws_do() -> None:
    """Three numbers per draw, joined; sums in float64 differ by rounding alone."""
    apart, together = NoiseCoefficient(3), NoiseCoefficient(3)
    u, eps, predicted = torch.rand(8), torch.randn(8, 4, 2), torch.randn(8, 4, 2)
    halves = [apart.rows(u[part], predicted[part], eps[part]) for part in (slice(0, 4), slice(4, 8))]
    assert all(half.shape == (4, 3) for half in halves)
    apart.add(0, torch.cat(halves))
    together.observe(0, u, predicted, eps)
    found, exact = (c.at(1, u.double()) for c in (apart, together))
    assert (exact != 1).all()
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=0)


def test_a_state_goes_on_to_the_bit() -> None:
    one, two = NoiseCoefficient(3), NoiseCoefficient(3)
    u, eps = torch.rand(9), torch.randn(9, 4)
    one.observe(0, u, 0.5 * eps + 0.1, eps)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.at(1, u), two.at(1, u))


def test_a_loaded_coefficient_follows_the_draws_to_their_device() -> None:
    one, two = NoiseCoefficient(3), NoiseCoefficient(3)
    u, eps = torch.rand(9), torch.randn(9, 4)
    one.observe(0, u, 0.5 * eps, eps)
    two.load_state_dict(one.state_dict(), "cpu")
    assert two.at(1, u.to("meta")).device.type == "meta"
