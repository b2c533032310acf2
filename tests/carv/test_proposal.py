from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, Proposal, average_residual, stream

DTYPES = (torch.float32, torch.float64)


def uneven(bins: int) -> Tensor:
    """Weights over six orders of magnitude."""
    return torch.logspace(0, -6, bins, dtype=torch.float64)


def dense_grid(dtype: torch.dtype) -> Tensor:
    """v over [0, 1), with 0 and the largest float below 1."""
    v = torch.linspace(0, 1, 200_001, dtype=dtype)[:-1]
    return torch.cat([v, torch.nextafter(torch.ones(1, dtype=dtype), torch.zeros(1, dtype=dtype))])


PROPOSALS = {
    "uniform": Proposal.uniform(),
    "linear": Proposal.from_weights(torch.arange(1000.0)),
    "uneven": Proposal.from_weights(uneven(1000)),
    "defensive": Proposal.from_weights(uneven(1000), defensive=0.2),
    "holes": Proposal.from_weights((torch.arange(1000) % 7 < 3) * torch.linspace(1, 2, 1000)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PROPOSALS)
def test_u_truncates_to_the_bin_that_v_fell_into(name: str, dtype: torch.dtype) -> None:
    """⌊u N⌋ for N = 1000 is the bin of v, so a discrete timestep is never mistaken for its neighbour."""
    proposal, v = PROPOSALS[name], dense_grid(dtype)
    cdf = proposal.mass.cumsum(0)
    bins = torch.searchsorted((cdf / cdf[-1]).to(dtype), v, right=True)
    u = proposal.icdf(v)
    assert u.dtype == dtype
    assert torch.equal((u * 1000).long(), bins)
    assert u.min() >= 0
    assert u.max() < 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PROPOSALS)
def test_sample_is_icdf_and_weight(name: str, dtype: torch.dtype) -> None:
    """sample(v) = (icdf(v), weight(icdf(v))), bit for bit, and the weight is 1/(mass N)."""
    proposal, v = PROPOSALS[name], dense_grid(dtype)
    u, weight = proposal.sample(v)
    assert torch.equal(u, proposal.icdf(v))
    assert torch.equal(weight, proposal.weight(u))
    exact = 1 / (proposal.mass * 1000)
    torch.testing.assert_close(weight, exact[(u * 1000).long()].to(dtype), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PROPOSALS)
def test_many_probabilities_fall_where_a_search_puts_them(name: str, dtype: torch.dtype) -> None:
    """The look-up of large batches is torch.searchsorted to the bit: on every edge, the floats next to it, at
    0, 1 and 10⁵ random v."""
    proposal = PROPOSALS[name]
    cdf = proposal.mass.cumsum(0)
    cdf = (cdf / cdf[-1]).to(dtype)
    one, zero = torch.ones(1, dtype=dtype), torch.zeros(1, dtype=dtype)
    edges = torch.cat([cdf, torch.nextafter(cdf, zero), torch.nextafter(cdf, one), one, zero])
    v = torch.cat([edges, torch.rand(100_000, generator=stream("search"), dtype=dtype)])
    last = int(proposal.mass.nonzero()[-1])
    expected = torch.searchsorted(cdf, v, right=True).clamp_(max=last)
    assert torch.equal((proposal.icdf(v) * 1000).long(), expected)
    few = torch.stack([proposal.icdf(part) for part in v[:2000].split(1)])  # these are searched for
    assert torch.equal(few.flatten(), proposal.icdf(v)[:2000])


def test_float32_result_of_float64_probabilities_keeps_the_bin() -> None:
    """Rounding u to float32 at the end neither leaves the bin nor reaches 1."""
    proposal, v = PROPOSALS["uneven"], dense_grid(torch.float64)
    exact, exact_weight = proposal.sample(v)
    u, weight = proposal.sample(v, torch.float32)
    assert u.dtype == weight.dtype == torch.float32
    assert torch.equal((u * 1000).long(), (exact * 1000).long())
    assert torch.equal(weight, exact_weight.float())
    assert (u - exact).abs().max() < 1e-6  # 4 N eps32 / N, where u is kept off the edges of its bin


def test_icdf_inverts_the_cdf() -> None:
    """Q(Q⁻¹(v)) = v in float64, with Q summed from the bin masses."""
    proposal, v = PROPOSALS["defensive"], dense_grid(torch.float64)
    u = proposal.icdf(v)
    index = (u * 1000).long()
    left = torch.cat([torch.zeros(1, dtype=torch.float64), proposal.mass.cumsum(0)])
    torch.testing.assert_close(left[index] + proposal.mass[index] * (u * 1000 - index), v, rtol=0, atol=1e-12)


def test_empty_bins_are_never_hit() -> None:
    """Holes at the start, inside and at the end get no v, with 0 and the largest v below 1 among them."""
    w = torch.tensor([0.0, 0.0, 1.0, 0.0, 3.0, 0.0, 2.0, 0.0])
    proposal = Proposal.from_weights(w)
    for dtype in DTYPES:
        hit = (proposal.icdf(dense_grid(dtype)) * 8).long().unique()
        assert hit.tolist() == [2, 4, 6]
    assert proposal.weight(torch.tensor([0.0, 0.99])).tolist() == [float("inf")] * 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_probability_rounded_up_to_one_stays_inside(dtype: torch.dtype) -> None:
    """v = 1, to which a stratified v may round in float32, gives u < 1 in the last bin that has mass."""
    proposal = Proposal.from_weights(torch.tensor([1.0, 3.0, 0.0]))
    u, weight = proposal.sample(torch.ones(1, dtype=dtype))
    assert (u * 3).long().item() == 1
    assert weight.item() == pytest.approx(4 / 9)
    assert Proposal.uniform(1000).icdf(torch.ones(1, dtype=dtype)).item() < 1


@pytest.mark.parametrize("name", ["uniform", "uneven", "defensive"])
def test_weighted_expectation_is_the_integral(name: str) -> None:
    """E_q[ω f] = ∫ f by the midpoint rule in v inside each bin: exact to its error (f″/24 n² ≈ 1e-10)."""
    proposal, points = PROPOSALS[name], 20
    left = torch.cat([torch.zeros(1, dtype=torch.float64), proposal.mass.cumsum(0)[:-1]])
    inside = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    v = left[:, None] + proposal.mass[:, None] * inside
    u, weight = proposal.sample(v)
    value = (proposal.mass[:, None] * weight * torch.exp(u)).sum() / points
    torch.testing.assert_close(value, torch.tensor(1.0, dtype=torch.float64).exp() - 1, rtol=0, atol=1e-8)


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0])
def test_defensive_bounds_the_weights(alpha: float) -> None:
    """The largest weight is at most 1/α, and comes close to it where w vanishes; α = 1 is uniform."""
    proposal = Proposal.from_weights(torch.tensor([0.0, 1e-9, 1.0, 5.0]), defensive=alpha)
    weight = 1 / (proposal.mass * 4)
    assert weight.max() == pytest.approx(1 / alpha, rel=1e-12)
    assert proposal.mass.sum() == pytest.approx(1, abs=1e-15)


def test_defensive_is_the_mixture() -> None:
    """q = (1 − α) w/Σw + α/N."""
    proposal = Proposal.from_weights(torch.tensor([1.0, 3.0]), defensive=0.4)
    torch.testing.assert_close(
        proposal.mass, torch.tensor([0.6 * 0.25 + 0.2, 0.6 * 0.75 + 0.2], dtype=torch.float64)
    )


def test_frequencies_follow_the_mass() -> None:
    """10⁵ draws fall into each bin within 4 SE of its mass, SE = √(m(1−m)/n)."""
    proposal, n = Proposal.from_weights(torch.tensor([0.5, 3.0, 1.0, 0.0, 2.0])), 100_000
    v = torch.rand(n, generator=stream("frequencies"), dtype=torch.float64)
    share = torch.bincount((proposal.icdf(v) * 5).long(), minlength=5) / n
    se = (proposal.mass * (1 - proposal.mass) / n).sqrt()
    assert ((share - proposal.mass).abs() <= 4 * se).all()


@pytest.mark.parametrize(
    ("w", "message"),
    [
        ([1.0, float("nan")], "weights must be finite, found NaN or infinity"),
        ([1.0, float("inf")], "weights must be finite, found NaN or infinity"),
        ([1.0, -0.5], "weights must be non-negative, found -0.5"),
        ([0.0, 0.0], "weights must not all be zero"),
        ([], r"weights must have shape \[N\] with N ≥ 1, found \[0\]"),
        ([[1.0, 2.0]], r"weights must have shape \[N\] with N ≥ 1, found \[1, 2\]"),
    ],
)
def test_unusable_weights_are_refused(w: Sequence[object], message: str) -> None:
    """Each kind of unusable weight has its own message, from both constructors."""
    with pytest.raises(ValueError, match=rf"^{message}$"):
        Proposal.from_weights(torch.tensor(w))
    with pytest.raises(ValueError, match=rf"^{message}$"):
        Proposal(torch.tensor(w))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_defensive_outside_its_range_is_refused(alpha: float) -> None:
    """α must lie in [0, 1]; NaN does not."""
    with pytest.raises(ValueError, match=rf"^defensive must lie in \[0, 1\], found {alpha}$"):
        Proposal.from_weights(torch.ones(3), defensive=alpha)


def test_uniform_needs_a_bin() -> None:
    """Zero bins are refused."""
    with pytest.raises(ValueError, match=r"^bins must be at least 1, found 0$"):
        Proposal.uniform(0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_samples_have_levels_of_single_precision(dtype: torch.dtype) -> None:
    """In eight bits 1,000 timesteps cannot be told apart: u is that of float32 to the bit, and its mean ½."""
    sampler = NoiseLevelSampler(Proposal.uniform(1000), "stratified")
    half, single = (sampler.draw(50, 4, (3,), stream("half"), dtype=d) for d in (dtype, torch.float32))
    assert half.eps.dtype == dtype
    assert half.u.dtype == half.weight.dtype == torch.float32
    assert torch.equal(half.u, single.u)
    assert abs(half.u.mean() - 0.5) < 4 * (1 / 12 / 16 / 200) ** 0.5  # a stratum's spread is a fourth
    x = torch.zeros(50, 3, dtype=dtype)
    found = average_residual(lambda x, u, eps, index: x + u[:, None].to(dtype), x, half)
    assert found.dtype == dtype
