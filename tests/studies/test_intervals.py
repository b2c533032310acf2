"""Intervals over common seeds and over states, on terms whose law is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from carv_distill.carv import stream
from carv_distill.variance import Estimate, mean_estimate
from studies.intervals import (
    block_differences,
    exponential,
    independent_ratio,
    paired_differences,
    pooled_mean,
    pooled_ratio,
    resolved_ratio,
)


def test_two_treatments_are_a_paired_t_test() -> None:
    """With one pair of treatments the interval is that of Student's paired test, by hand: t(2) = 4.3027."""
    values = {"a": [3.0, 5.0, 10.0], "b": [1.0, 4.0, 7.0]}  # differences 2, 1, 3
    e = block_differences(values, [("a", "b")])["a", "b"]
    assert e.value == pytest.approx(2)
    assert e.se == pytest.approx(1 / math.sqrt(3))
    assert (e.low, e.high) == pytest.approx(
        (2 - 4.30265 / math.sqrt(3), 2 + 4.30265 / math.sqrt(3)), rel=1e-5
    )


def test_a_paired_difference_by_hand() -> None:
    """Differences 2, 1, 3; alone with t_0.975(2) = 4.30265, beside another pair with t_0.9875(2) = 6.20535.
    What the other pair scatters is not in it."""
    values = {"a": [3.0, 5.0, 10.0], "b": [1.0, 4.0, 7.0], "c": [100.0, -100.0, 0.0]}
    for pairs, quantile in (([("a", "b")], 4.30265), ([("a", "b"), ("a", "c")], 6.20535)):
        e = paired_differences(values, pairs)["a", "b"]
        assert (e.value, e.se) == (pytest.approx(2), pytest.approx(1 / math.sqrt(3)))
        assert e.high - e.value == pytest.approx(quantile / math.sqrt(3), rel=1e-5)
        assert e.value - e.low == pytest.approx(quantile / math.sqrt(3), rel=1e-5)
    for wrong in ({"a": [1.0], "b": [2.0]}, {"a": [1.0, 2.0], "b": [1.0]}):
        with pytest.raises(ValueError, match="two seeds, as many of each"):
            paired_differences(wrong, [("a", "b")])


def test_paired_intervals_hold_where_the_baseline_scatters_twice_as_much() -> None:
    """Five treatments without an effect, 6 seeds, the first with twice the others' sd: all seven differences
    hold zero in at least 95 % − 4 SE of 2,000 studies, where a pooled variance lets it fall below."""
    g = stream("unequal")
    noise = torch.randn(2000, 5, 6, generator=g, dtype=torch.float64)
    noise[:, 0] *= 2
    pairs = [(f"{i}", "0") for i in range(1, 5)] + [(f"{i}", "4") for i in range(1, 4)]
    held = {paired_differences: 0, block_differences: 0}
    for study in noise.tolist():
        values = {f"{i}": row for i, row in enumerate(study)}
        for method in held:
            held[method] += all(e.low <= 0 <= e.high for e in method(values, pairs).values())
    least = 0.95 - 4 * math.sqrt(0.05 * 0.95 / 2000)
    assert held[paired_differences] / 2000 > least > held[block_differences] / 2000


def test_intervals_hold_together() -> None:
    """5 treatments without an effect, 6 seeds of unequal level, 2000 studies: in at least 95 % − 4 SE of them
    all four intervals hold zero, and in no more than 98 %; single intervals would in about 85 %."""
    g = stream("blocks")
    noise = torch.randn(2000, 5, 6, generator=g, dtype=torch.float64)
    noise = noise + 3 * torch.randn(2000, 1, 6, generator=g, dtype=torch.float64)
    pairs = [(f"{i}", "0") for i in range(1, 5)]
    held = 0
    for study in noise.tolist():
        found = block_differences({f"{i}": row for i, row in enumerate(study)}, pairs)
        held += all(e.low <= 0 <= e.high for e in found.values())
    assert 0.95 - 4 * math.sqrt(0.05 * 0.95 / 2000) < held / 2000 < 0.98


def test_too_little_is_refused() -> None:
    for values in ({"a": [1.0, 2.0]}, {"a": [1.0], "b": [2.0]}, {"a": [1.0, 2.0], "b": [1.0]}, {}):
        with pytest.raises(ValueError, match="two treatments and two seeds"):
            block_differences(values, [("a", "b")])


def test_a_ratio_of_logarithms() -> None:
    e = exponential(Estimate(math.log(2), 0.1, 0.0, math.log(4)))
    assert (e.value, e.se, e.low, e.high) == pytest.approx((2, 0.2, 1, 4))


def states(rng: np.random.Generator, count: int, shared: float) -> list[tuple[Estimate, Estimate]]:
    """`count` states of 20 replicates with a mean ratio of 2; a share of their scatter is common to all."""
    common = rng.normal(size=20)
    found = []
    for s in range(count):
        own = rng.normal(size=20)
        scatter = 0.2 * (math.sqrt(shared) * common + math.sqrt(1 - shared) * own)
        scale = 10.0**s
        found.append(
            (
                mean_estimate((2 * scale * (1 + scatter)).tolist(), positive=True),
                mean_estimate((scale * (1 + 0.1 * rng.normal(size=20))).tolist(), positive=True),
            )
        )
    return found


@pytest.mark.parametrize("shared", [0.0, 0.9])
@pytest.mark.parametrize("pool", [pooled_ratio, pooled_mean])
def test_intervals_cover_whether_states_share_their_noise_or_not(pool: object, shared: float) -> None:
    """95 % intervals of 1,500 studies of six states hold the truth in 93.5 to 96.5 %: 4 SE are 2.3 %, and the
    first-order interval is a little short or long."""
    assert callable(pool)
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1500):
        e = pool(states(rng, 6, shared))
        held += e.low < 2 < e.high
    assert 0.95 - 0.023 < held / 1500 < 0.95 + 0.023


def test_states_that_are_copies_are_no_more_than_one() -> None:
    pair = states(np.random.default_rng(1), 1, 0.0)
    one, six = pooled_ratio(pair), pooled_ratio(6 * pair)
    assert (six.value, six.low, six.high) == pytest.approx((one.value, one.low, one.high))


def test_a_ratio_to_what_is_not_told_from_zero_is_none() -> None:
    pairs = 3 * states(np.random.default_rng(1), 1, 0.0)
    assert resolved_ratio(pairs) == independent_ratio(pairs)
    assert resolved_ratio(pairs, pooled_ratio) == pooled_ratio(pairs)
    for ratio_of in (independent_ratio, pooled_ratio):
        assert resolved_ratio([*pairs, (pairs[0][0], mean_estimate([-1.0, 2.0, 1.0]))], ratio_of) is None


def test_a_mean_below_zero_is_no_ratio_of_logarithms() -> None:
    below, above = mean_estimate([-1.0, -2.0]), mean_estimate([1.0, 2.0])
    with pytest.raises(ValueError, match=r"needs positive means, found -1\.5 and 1\.5"):
        pooled_ratio([(below, above)])
    assert pooled_mean([(below, above)]).value == pytest.approx(-1)


def test_a_wider_level_is_a_wider_interval() -> None:
    pair = states(np.random.default_rng(2), 2, 0.5)
    assert pooled_ratio(pair, 0.999).low < pooled_ratio(pair).low


def test_means_measured_apart() -> None:
    """Two states, each a/b with 10 % standard errors on both sides: log SE √(4 · 0.01)/2 = 0.1."""
    a, b = Estimate(4.0, 0.4, 3, 5), Estimate(2.0, 0.2, 1, 3)
    e = independent_ratio([(a, b), (b, a)])
    assert (e.value, e.se) == pytest.approx((1, 0.1))
    assert (e.low, e.high) == pytest.approx((math.exp(-0.196), math.exp(0.196)), rel=1e-4)
