import pytest
import torch
from torch import Tensor, nn

from carv_distill.carv import (
    AdaptiveProposal,
    Draws,
    FiniteDraws,
    NoiseLevelSampler,
    Proposal,
    Residual,
    StepStatistics,
    Upstream,
    average_residual,
    carv_loss,
    stream,
    surrogate,
)

F64 = torch.float64
SAMPLER = NoiseLevelSampler(Proposal.from_weights(torch.arange(1.0, 9.0)))


def polynomial(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
    """An elementwise residual that uses all four arguments."""
    shape = (-1, *[1] * (x.ndim - 1))
    return (x + u.view(shape) * eps) * (x - eps) + index.view(shape)


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 3, 4, 4), (6,), ()])
def test_direction_is_the_weighted_mean_over_draws(shape: tuple[int, ...]) -> None:
    """direction_r = 1/K Σ_k ω_rk r(x_r, u_rk, ε_rk, r), against a double loop, for any trailing shape."""
    x = torch.randn(3, *shape, generator=stream("x"), dtype=F64)
    draws = SAMPLER.draw(3, 5, shape, stream("draws"), dtype=F64)
    direction = average_residual(polynomial, x, draws)
    expected = torch.zeros_like(x)
    for r in range(3):
        for k in range(5):
            u, eps = draws.u[r, k].view(1), draws.eps[r, k][None]
            expected[r] += draws.weight[r, k] * polynomial(x[r : r + 1], u, eps, torch.tensor([r]))[0] / 5
    assert direction.shape == x.shape
    torch.testing.assert_close(direction, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 3, 4, 4), (6,)])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_chunk_changes_memory_and_nothing_else(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Chunks of 1, 3, 7, all and more than all rows give the same bits, and no call sees more rows."""
    x = torch.randn(3, *shape, generator=stream("x"), dtype=dtype)
    draws = SAMPLER.draw(3, 5, shape, stream("draws"), dtype=dtype)
    whole = average_residual(polynomial, x, draws)
    for chunk in (1, 3, 7, 15, 99):
        rows: list[int] = []

        def counted(x: Tensor, u: Tensor, eps: Tensor, index: Tensor, rows: list[int] = rows) -> Tensor:
            rows.append(len(x))
            return polynomial(x, u, eps, index)

        assert torch.equal(average_residual(counted, x, draws, chunk), whole)
        assert max(rows) <= chunk
        assert sum(rows) == 15


def test_one_backward_is_the_mean_of_k_backwards() -> None:
    """∇θ surrogate = 1/(RK) Σ ∇θ ⟨x_r, ω r⟩ by separate backwards through a nonlinear net, to 1e-8."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    parameters = list(generator.parameters())
    z = torch.randn(2, 3, generator=stream("z"), dtype=F64)
    draws = SAMPLER.draw(2, 5, (4,), stream("draws"), dtype=F64)

    x = generator(z)
    loss = surrogate(x, average_residual(polynomial, x, draws, chunk=3))
    together = torch.autograd.grad(loss, parameters)

    separate = [torch.zeros_like(p) for p in parameters]
    for r in range(2):
        for k in range(5):
            x_r = generator(z[r : r + 1])
            residual = polynomial(x_r, draws.u[r, k].view(1), draws.eps[r, k][None], torch.tensor([r]))
            value = (x_r * (draws.weight[r, k] * residual).detach()).sum()
            for total, part in zip(separate, torch.autograd.grad(value, parameters), strict=True):
                total += part / 10
    assert max(p.abs().max() for p in together) > 0.1
    torch.testing.assert_close(list(together), separate, rtol=0, atol=1e-8)


def test_gradient_of_the_surrogate_is_the_direction() -> None:
    """∂surrogate/∂x = direction/R, and none flows into the direction."""
    x = torch.randn(4, 2, dtype=F64, requires_grad=True)
    direction = torch.randn(4, 2, dtype=F64, requires_grad=True)
    surrogate(x, direction).backward()
    torch.testing.assert_close(x.grad, direction.detach() / 4)
    assert direction.grad is None


def test_the_residual_runs_without_a_graph() -> None:
    """Gradients are off inside the residual, its x carries no graph, and x keeps its own."""
    network = nn.Linear(2, 2)
    x = network(torch.randn(3, 2))

    def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert not x.requires_grad
        return network(x + eps)

    direction = average_residual(residual, x, SAMPLER.draw(3, 2, (2,), stream("graph")))
    assert not direction.requires_grad
    assert torch.is_grad_enabled()
    assert x.grad_fn is not None


def test_index_names_the_upstream_sample() -> None:
    """Row (r, k) gets x_r, index r: labels are looked up correctly in every chunk."""
    labels = torch.tensor([5.0, 7.0, 11.0])
    draws = Draws(torch.zeros(3, 4), torch.ones(3, 4), torch.zeros(3, 4, 2))
    x = labels[:, None].expand(3, 2)
    for chunk in (1, 5, None):
        direction = average_residual(lambda x, u, eps, i: x - labels[i][:, None] + 1, x, draws, chunk)
        assert (direction == 1).all()


def test_what_does_not_fit_is_refused() -> None:
    """Different R, and a chunk below 1, with what was found."""
    draws = SAMPLER.draw(3, 2, (2,), stream("errors"))
    with pytest.raises(ValueError, match=r"^x has 4 upstream samples, the draws have 3$"):
        average_residual(polynomial, torch.zeros(4, 2), draws)
    for chunk in (0, -1):
        with pytest.raises(ValueError, match=rf"^chunk must be at least 1, found {chunk}$"):
            average_residual(polynomial, torch.zeros(3, 2), draws, chunk)


def test_a_loss_with_everything_against_a_written_out_formula() -> None:
    """∂/∂A [1/R Σ_r ⟨A z_r, clip(d̄_r + push_r)⟩ + λ‖A‖²] = 1/R Σ_r clip(…)_r z_rᵀ + 2λA, in float64; the push
    comes after the draws of the residual were made, from the stream that is given."""
    a = torch.randn(3, 2, generator=stream("a"), dtype=F64, requires_grad=True)
    z = torch.randn(4, 2, generator=stream("z"), dtype=F64)
    x = z @ a.T
    draws = SAMPLER.draw(4, 5, (3,), stream("all"), dtype=F64)
    upstream = Upstream(
        x,
        polynomial,
        lambda g: 10 * torch.randn(4, 3, generator=g, dtype=F64),
        0.7 * a.square().sum(),
        lambda d: d.clamp(-2, 2),
    )
    loss, direction = carv_loss(upstream, draws, stream("push"), 3)
    push = 10 * torch.randn(4, 3, generator=stream("push"), dtype=F64)
    expected = (average_residual(polynomial, x, draws) + push).clamp(-2, 2)
    assert 0 < (expected.abs() == 2).sum() < 12
    torch.testing.assert_close(direction, expected, rtol=1e-13, atol=1e-13)
    (gradient,) = torch.autograd.grad(loss, a)
    exact = torch.einsum("rd,rz->dz", expected, z) / 4 + 1.4 * a
    torch.testing.assert_close(gradient, exact, rtol=1e-13, atol=1e-13)


def test_a_loss_with_nothing_beside_the_residual() -> None:
    """A pair is an upstream sample; its loss is the surrogate's, to the bit, and no number is drawn."""
    x = torch.randn(3, 4, generator=stream("x"), dtype=F64, requires_grad=True)
    draws, g = SAMPLER.draw(3, 2, (4,), stream("draws"), dtype=F64), stream("idle")
    loss, direction = carv_loss(Upstream(x, polynomial), draws, g)
    assert torch.equal(direction, average_residual(polynomial, x, draws))
    assert torch.equal(loss, surrogate(x, direction))
    assert torch.equal(g.get_state(), stream("idle").get_state())


def spoiled(bad: Tensor, value: float) -> Residual:
    """The polynomial, with one entry of the residual of each draw in `bad` [R, K] replaced."""

    def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
        r = polynomial(x, u, eps, index)
        # a draw is known by its noise
        hit = (eps.flatten(1)[:, :1] == bad.flatten()).any(1)
        r.view(len(r), -1)[hit, -1] = value
        return r

    return residual


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_a_draw_that_is_not_finite_is_left_out(value: float, chunk: int | None) -> None:
    """Three, one and no finite draws of four: the mean over those, and zero; counted until taken."""
    x = torch.randn(3, 2, 3, generator=stream("x"), dtype=F64)
    draws = SAMPLER.draw(3, 4, (2, 3), stream("draws"), dtype=F64)
    lost = torch.tensor([[0, 1, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1]], dtype=torch.bool)
    residual, finite = spoiled(draws.eps[lost][:, 0, 0], value), FiniteDraws()
    found = average_residual(residual, x, draws, chunk, finite=finite)
    for r, left in enumerate(~lost):
        alone = Draws(draws.u[r : r + 1, left], draws.weight[r : r + 1, left], draws.eps[r : r + 1, left])
        shifted = lambda x, u, eps, index, r=r: polynomial(x, u, eps, index + r)  # noqa: E731
        expected = average_residual(shifted, x[r : r + 1], alone)[0] if left.any() else torch.zeros(2, 3)
        torch.testing.assert_close(found[r], expected.to(F64), rtol=1e-13, atol=1e-13)
    total, sound = finite.take()
    assert (total, int(sound)) == (12, 4)
    assert (finite.total, int(finite.finite)) == (0, 0)
    assert not average_residual(residual, x, draws, chunk).isfinite().all()


def test_all_draws_finite_give_the_same_bits() -> None:
    x = torch.randn(3, 5, generator=stream("x"))
    for count in (1, 3, 7):
        draws = SAMPLER.draw(3, count, (5,), stream("draws"))
        kept = average_residual(polynomial, x, draws, finite=FiniteDraws())
        assert torch.equal(kept, average_residual(polynomial, x, draws))


def test_an_importance_weight_that_overflows_counts_as_not_finite() -> None:
    x = torch.full((1, 2), 1e30)
    draws = Draws(torch.zeros(1, 2), torch.tensor([[1e30, 1.0]]), torch.zeros(1, 2, 2))
    finite = FiniteDraws()
    found = average_residual(lambda x, u, eps, i: x, x, draws, finite=finite)
    assert torch.equal(found, x)
    assert int(finite.finite) == 1


def test_the_mean_over_finite_draws_is_unbiased_where_x_alone_decides_how_often_they_fail() -> None:
    """r = x + ε² loses 40 % of the draws of x_0 and 5 % of x_1, whatever (u, ε): over 20,000 estimates with
    K = 3 that kept a draw, the mean of each is x_r + 1 within 4 SE (three entries each: 4e-4 for a false
    alarm); dividing by K instead would be 40 % and 5 % short."""
    g, x = stream("failures"), torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=F64)
    share = torch.tensor([0.4, 0.05], dtype=F64)

    def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
        lost = torch.rand(len(u), generator=g, dtype=F64) < share[index]
        return torch.where(lost[:, None], torch.nan, x + eps.square())

    sampler = NoiseLevelSampler(Proposal.uniform(4), "iid")
    for r in range(2):
        many = x[r].expand(20_000, 3)
        draws = sampler.draw(20_000, 3, (3,), g, dtype=F64)
        found = average_residual(
            lambda a, u, e, i, r=r: residual(a, u, e, torch.full_like(i, r)),
            many,
            draws,
            finite=FiniteDraws(),
        )
        kept = found[(found != 0).any(1)]
        assert len(kept) / 20_000 == pytest.approx(1 - float(share[r]) ** 3, abs=0.01)
        error = kept.mean(0) - (x[r] + 1)
        assert (error.abs() < 4 * kept.std(0) / len(kept) ** 0.5).all()


def test_what_is_not_finite_teaches_nothing_where_it_is_left_out() -> None:
    """One NaN among four draws: the proposal learns of the other three; a strict learner refuses it."""
    u = torch.tensor([0.1, 0.3, 0.6, 0.9])
    r = torch.tensor([[1.0], [torch.nan], [2.0], [3.0]])
    adaptive, expected = AdaptiveProposal(2, refresh=1), AdaptiveProposal(2, refresh=1)
    statistics = StepStatistics(finite=True)
    statistics.record(adaptive, adaptive.rows(u, r))
    statistics.commit(0, lambda rows: rows)
    sound = torch.tensor([True, False, True, True])
    expected.observe(0, u[sound], r[sound])
    assert torch.equal(adaptive.proposal(1).mass, expected.proposal(1).mass)
    strict = StepStatistics()
    strict.record(adaptive, adaptive.rows(u, r))
    with pytest.raises(ValueError, match="must be finite"):
        strict.commit(1, lambda rows: rows)
