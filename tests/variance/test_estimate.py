"""Intervals of means and of ratios."""

from __future__ import annotations

import math

import pytest
import torch

from carv_distill.carv import stream
from carv_distill.variance import Estimate, mean_estimate, paired_ratio, ratio, scaled


def test_a_mean_has_students_interval() -> None:
    """Of 1, 2, 3, 4: SE √(5/12), t_0.975(3) = 3.18245."""
    e = mean_estimate([1.0, 2.0, 3.0, 4.0])
    assert (e.value, e.se) == (2.5, pytest.approx(math.sqrt(5 / 12)))
    assert e.high - e.value == pytest.approx(3.18245 * e.se, rel=1e-5)
    assert math.isnan(mean_estimate([1.0]).se)
    with pytest.raises(ValueError, match="at least one term"):
        mean_estimate([])


def test_a_paired_ratio_covers_and_is_narrower_than_an_unpaired_one() -> None:
    """Terms share most of their spread; 400 repetitions, coverage 95 % within 4 SE (1.1 %)."""
    hits, widths = 0, [0.0, 0.0]
    for seed in range(400):
        g = stream("ratio", seed)
        common = torch.rand(40, generator=g, dtype=torch.float64) * 10
        a = (3 + common + torch.rand(40, generator=g, dtype=torch.float64)).tolist()
        b = (1 + common + torch.rand(40, generator=g, dtype=torch.float64)).tolist()
        paired = paired_ratio(mean_estimate(a), mean_estimate(b))
        unpaired = ratio(mean_estimate(a, positive=True), mean_estimate(b, positive=True))
        hits += paired.low <= 8.5 / 6.5 <= paired.high
        for i, e in enumerate((paired, unpaired)):
            widths[i] += e.high - e.low
    assert abs(hits / 400 - 0.95) < 4 * 0.011
    assert widths[0] < widths[1] / 3


def test_terms_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="found 3 and 2"):
        paired_ratio(mean_estimate([1.0, 2, 3]), mean_estimate([1.0, 2]))
    with pytest.raises(ValueError, match="found 0 and 0"):
        paired_ratio(Estimate(1, 1, 0, 2), Estimate(1, 1, 0, 2))


def test_scaling_scales_everything() -> None:
    e = scaled(mean_estimate([1.0, 3.0]), 2.0)
    assert (e.value, e.terms) == (4.0, (2.0, 6.0))
