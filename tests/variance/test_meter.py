import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.distillation.memory.footprint import LiveBytes
from carv_distill.variance import Estimate, PairedVariance, VarianceMeter, ratio
from carv_distill.variance.meter import CPU_BLOCK

F64 = torch.float64
MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
SCALE = torch.tensor([2.0, 1.0, 0.5], dtype=F64)  # standard deviations: tr Cov = 5.25
TRACE = 5.25


def gaussian(repetitions: int, count: int, *key: int | str) -> Tensor:
    """Replicates of N(MEAN, SCALE²), [repetitions, count, 3]."""
    z = torch.randn(repetitions, count, 3, generator=stream("variance", *key), dtype=F64)
    return MEAN + SCALE * z


def meter_of(replicates: Tensor) -> VarianceMeter:
    meter = VarianceMeter()
    for g in replicates:
        meter.update(g)
    return meter


REPETITIONS = 400
METERS = [meter_of(g) for g in gaussian(REPETITIONS, 20)]


def coverage(estimates: list[Estimate], exact: float) -> float:
    return sum(e.low <= exact <= e.high for e in estimates) / len(estimates)


def mean_and_se(values: list[float]) -> tuple[float, float]:
    v = torch.tensor(values, dtype=F64)
    return v.mean().item(), v.std().item() / len(values) ** 0.5


@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_welford_equals_two_passes(offset: float) -> None:
    """Mean, variance and increments agree with torch.var, also far from the origin, at 1e8."""
    g = gaussian(1, 50, "two passes")[0].view(50, 3, 1) + offset
    meter = VarianceMeter()
    increments = [meter.update(row) for row in g]
    assert meter.count == 50
    assert math.isnan(increments[0])
    torch.testing.assert_close(meter.mean, g.mean(0), rtol=1e-13, atol=0)
    rtol = 1e-12 if offset == 0 else 1e-6
    assert meter.variance == pytest.approx(g.var(0).sum().item(), rel=rtol)
    for i in range(2, 51):  # the first i replicates: Σ d = Σ squared deviations
        squares = (g[:i] - g[:i].mean(0)).square().sum().item()
        assert sum(increments[1:i]) == pytest.approx(squares, rel=rtol)


def test_float32_replicates_are_summed_in_float64() -> None:
    """A float32 vector gives the same variance as its float64 copy, and its graph is not kept."""
    g = gaussian(1, 10, "float32")[0].float()
    assert meter_of(g.requires_grad_()).variance == meter_of(g.double()).variance
    assert not meter_of(g).mean.requires_grad


@pytest.mark.parametrize(("dtype", "rtol"), [(F64, 1e-12), (torch.float32, 1e-5)])
def test_a_long_vector_goes_block_by_block(dtype: torch.dtype, rtol: float) -> None:
    """Vectors of two and a half blocks, 30 standard deviations from the origin; cleared and used again."""
    g = torch.randn(4, 5 * CPU_BLOCK // 2, generator=stream("blocks"), dtype=F64).add(30).to(dtype)
    meter = VarianceMeter(dtype)
    for rows in (g.flip(1), g):
        meter.clear()
        for row in rows:
            meter.update(row)
    assert meter.count == 4
    assert meter.variance == pytest.approx(g.double().var(0).sum().item(), rel=rtol)
    torch.testing.assert_close(meter.mean, g.double().mean(0).to(dtype), rtol=rtol, atol=0)
    meter.clear()
    with pytest.raises(ValueError, match="no replicate"):
        _ = meter.mean


def test_variance_is_unbiased() -> None:
    """Mean over 400 meters is tr Cov within 4 SE, SE = s/√400."""
    mean, se = mean_and_se([m.variance for m in METERS])
    assert abs(mean - TRACE) < 4 * se


def test_standard_error_of_the_variance() -> None:
    """The mean SE² is the exact Var = 2 tr Σ²/(n−1) within 4 SE of that mean."""
    exact = 2 * SCALE.pow(4).sum().item() / 19
    mean, se = mean_and_se([m.estimate().se ** 2 for m in METERS])
    assert abs(mean - exact) < 4 * se


def test_interval_coverage() -> None:
    """The 95 % interval of the variance from 20 replicates holds tr Cov in 88 … 99 % of 400 repetitions."""
    assert 0.88 <= coverage([m.estimate() for m in METERS], TRACE) <= 0.99
    assert METERS[0].interval() == (METERS[0].estimate().low, METERS[0].estimate().high)


def test_a_higher_level_widens_the_interval() -> None:
    """50 % inside 95 % inside 99 %, all around the same value; coverage at 50 % is 50 % within 4 SE."""
    for meter in METERS[:5]:
        half, usual, wide = (meter.estimate(level) for level in (0.5, 0.95, 0.99))
        assert wide.low < usual.low < half.low < half.value < half.high < usual.high < wide.high
    share = coverage([m.estimate(0.5) for m in METERS], TRACE)
    # the skew of 20 replicates leaves a few per cent of miscoverage beyond the binomial SE of 2.5 %
    assert abs(share - 0.5) < 4 * 0.025


def test_squared_norm_is_unbiased() -> None:
    """Mean over 400 meters is ‖μ‖² within 4 SE, while that of ‖ḡ‖² is not (it is off by tr Cov/n)."""
    exact = MEAN.square().sum().item()
    mean, se = mean_and_se([m.squared_norm().value for m in METERS])
    assert abs(mean - exact) < 4 * se
    for meter, g in zip(METERS[:3], gaussian(REPETITIONS, 20), strict=False):
        inner = g @ g.T
        pairs = (inner.sum() - inner.trace()).item() / (20 * 19)
        assert meter.squared_norm().value == pytest.approx(pairs, rel=1e-10)


def test_squared_norm_is_unbiased_without_a_mean() -> None:
    """For E g = 0 it averages to 0 within 4 SE, its SE matches √(2 tr Σ²/n(n−1)), and 95 % covers ≥ 93 %."""
    estimates = [meter_of(g - MEAN).squared_norm() for g in gaussian(REPETITIONS, 20, "centred")]
    mean, se = mean_and_se([e.value for e in estimates])
    assert abs(mean) < 4 * se
    assert coverage(estimates, 0) >= 0.93
    assert min(e.value for e in estimates) < 0


def test_squared_norm_interval_is_conservative() -> None:
    """Its SE is at least the true one, √(4 μᵀΣμ/n + 2 tr Σ²/n(n−1)), on average; coverage ≥ 93 %."""
    exact = MEAN.square().sum().item()
    true_variance = 4 * (MEAN * SCALE).square().sum() / 20 + 2 * SCALE.pow(4).sum() / (20 * 19)
    estimates = [m.squared_norm() for m in METERS]
    value = torch.tensor([e.value for e in estimates], dtype=F64)
    square = (value - exact).square()
    assert (square.mean() - true_variance).abs() < 4 * square.std() / REPETITIONS**0.5
    assert sum(e.se**2 for e in estimates) / REPETITIONS > true_variance
    assert coverage(estimates, exact) >= 0.93


# ---------------------------------------------------------------- pairs

BETWEEN = torch.tensor([[1.0, 0.5], [0.0, 2.0], [1.0, 1.0]], dtype=F64)  # tr A Aᵀ = 7.25
WITHIN = torch.tensor([1.5, 0.5, 1.0], dtype=F64)  # Σ b² = 3.5


def pairs(count: int, *key: int | str) -> PairedVariance:
    """Linear-Gaussian model g = μ + A ξ + b ε with ξ shared by a pair: V_between 7.25, V_within 3.5."""
    g = stream("pairs", *key)
    upstream = torch.randn(count, 1, 2, generator=g, dtype=F64) @ BETWEEN.T
    values = MEAN + upstream + WITHIN * torch.randn(count, 2, 3, generator=g, dtype=F64)
    paired = PairedVariance()
    for first, second in values:
        paired.update(first, second)
    return paired


def test_pairs_recover_between_and_within() -> None:
    """V_within = 3.5, V_between = 7.25, V_total = 10.75 and ‖μ‖² = 5.25 within 4 of their SE; 3000 pairs."""
    paired = pairs(3000)
    for estimate, exact in (
        (paired.within(), 3.5),
        (paired.between(), 7.25),
        (paired.total(), 10.75),
        (paired.squared_norm(), 5.25),
        (paired.signal_to_noise(), 5.25 / 10.75),
    ):
        assert abs(estimate.value - exact) < 4 * estimate.se
        assert estimate.se < 0.1 * exact
        assert estimate.low < estimate.value < estimate.high


def test_pair_intervals_cover() -> None:
    """95 % intervals from 25 pairs hold the exact values in 88 … 99 % of 300 repetitions."""
    paired = [pairs(25, i) for i in range(300)]
    assert 0.88 <= coverage([p.within() for p in paired], 3.5) <= 0.99
    assert 0.88 <= coverage([p.between() for p in paired], 7.25) <= 0.99
    assert 0.88 <= coverage([p.total() for p in paired], 10.75) <= 0.99
    for exact, estimates in (
        (7.25, [p.between().value for p in paired]),
        (3.5, [p.within().value for p in paired]),
    ):
        mean, se = mean_and_se(estimates)
        assert abs(mean - exact) < 4 * se


def test_pairs_against_their_definition() -> None:
    """Two pairs by hand: w_j = ‖g_1 − g_2‖²/2, contrast ‖a_2 − a_1‖²/2."""
    paired = PairedVariance()
    paired.update(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.0]))
    paired.update(torch.tensor([0.0, 4.0]), torch.tensor([0.0, 8.0]))
    assert paired.within().value == pytest.approx((2 + 8) / 2)
    contrast = (2**2 + 6**2) / 2
    assert paired.total().value == pytest.approx(contrast + 8 / 2)
    assert paired.between().value == pytest.approx(contrast - 8 / 2)
    assert math.isnan(paired.total().low)


def test_pairs_of_long_vectors_take_their_mean_and_a_few_blocks() -> None:
    """float32 gradients of eight and a half blocks: as by the definition, in float64, with 8 bytes per entry
    for the mean and at most six float64 blocks beside."""
    g = torch.randn(3, 2, 17 * CPU_BLOCK // 2, generator=stream("long pairs"), dtype=torch.float32)
    paired = PairedVariance()
    with LiveBytes() as live:
        for first, second in g:
            paired.update(first, second)
    held = 8 * g.shape[-1]
    assert held <= live.peak <= held + 6 * 8 * CPU_BLOCK
    g = g.double()
    within = (g[:, 0] - g[:, 1]).square().sum(1) / 2
    between = g.mean(1).var(0).sum() - within[1:].mean() / 2  # the first pair has no contrast
    assert paired.within().value == pytest.approx(within.mean().item(), rel=1e-12)
    assert paired.between().value == pytest.approx(between.item(), rel=1e-9)


# ---------------------------------------------------------------- ratio


def test_ratio_by_hand() -> None:
    """se = (a/b) √((se_a/a)² + (se_b/b)²); logarithms' distances to both intervals' ends, squared."""
    r = ratio(Estimate(6.0, 0.6, 4.0, 9.0), Estimate(2.0, 0.1, 1.5, 2.5))
    assert r.value == 3
    assert r.se == pytest.approx(3 * math.hypot(0.1, 0.05))
    down = math.hypot(math.log(6 / 4), math.log(2.5 / 2))
    up = math.hypot(math.log(9 / 6), math.log(2 / 1.5))
    assert (r.low, r.high) == pytest.approx((3 * math.exp(-down), 3 * math.exp(up)))


def test_ratio_of_something_that_may_be_negative() -> None:
    """Where a's interval reaches below zero the interval is symmetric."""
    r = ratio(Estimate(-1.0, 1.0, -3.0, 1.0), Estimate(2.0, 0.1, 1.5, 2.5), level=0.9)
    assert r.value == -0.5
    assert r.high - r.value == pytest.approx(r.value - r.low)
    assert r.high - r.value == pytest.approx(stats.norm.ppf(0.95) * r.se)


def test_ratio_interval_covers() -> None:
    """The ratio of two independent variances, exactly 1, is held by its 95 % interval in 88 … 99 % of 200."""
    ratios = [ratio(METERS[i].estimate(), METERS[i + 200].estimate()) for i in range(200)]
    assert 0.88 <= coverage(ratios, 1.0) <= 0.99


# ---------------------------------------------------------------- edges


def test_too_few_replicates() -> None:
    """No mean from none, no variance from one, no interval from two."""
    meter = VarianceMeter()
    with pytest.raises(ValueError, match=r"^the meter has seen no replicate$"):
        _ = meter.mean
    meter.update(torch.zeros(2))
    for call in (lambda: meter.variance, meter.estimate, meter.interval, meter.squared_norm):
        with pytest.raises(ValueError, match=r"^a variance needs at least two replicates, found 1$"):
            call()
    meter.update(torch.ones(2))
    assert meter.variance == 1
    assert all(math.isnan(edge) for edge in meter.interval())
    assert math.isnan(meter.squared_norm().se)
    paired = PairedVariance()
    paired.update(torch.zeros(2), torch.ones(2))
    for call in (paired.total, paired.within, paired.between, paired.squared_norm):
        with pytest.raises(ValueError, match=r"at least two replicates, found 1$"):
            call()


def test_replicates_of_another_shape_are_refused() -> None:
    """The message names both shapes."""
    meter = meter_of(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"^replicate of shape \[3\] after \[2\]$"):
        meter.update(torch.zeros(3))


def test_vectors_in_parts_give_what_whole_ones_do() -> None:
    """Two processes with three and two entries each, their sums added up: every figure is the whole's."""
    pairs = torch.randn(6, 2, 5, generator=stream("parts"), dtype=F64) + 1
    sums: list[Tensor] = []

    def note(value: Tensor) -> Tensor:
        sums.append(value.clone())
        return value

    whole, second, first = PairedVariance(), PairedVariance(note), PairedVariance(lambda v: v + sums.pop(0))
    for a, b in pairs:
        whole.update(a, b)
        second.update(a[3:], b[3:])
    second.squared_norm()
    for a, b in pairs:
        first.update(a[:3], b[:3])
    assert first.total().value == pytest.approx(whole.total().value, rel=1e-12)
    assert first.within().high == pytest.approx(whole.within().high, rel=1e-12)
    assert first.between().low == pytest.approx(whole.between().low, rel=1e-12)
    # the second process counts its own part of the variance alone: 1/n of it is left out of the norm there
    part = sums[0] + first._averages.mean.square().sum()
    assert float(part) == pytest.approx(float(whole._averages.mean.square().sum()), rel=1e-12)
    assert first.squared_norm().value == pytest.approx(whole.squared_norm().value, rel=1e-12)
    assert not sums
