"""The linear datamodeling score and its interval."""

from __future__ import annotations

import statistics

import pytest
import torch

from carv_distill.attribution.retrained.lds import lds, lds_over
from carv_distill.carv import stream
from carv_distill.variance.estimate import t_quantile

SAMPLES = 1500


def test_models_of_halves_are_predicted_by_scores_that_cause_their_losses() -> None:
    g = stream("lds")
    members = torch.zeros(SAMPLES, 30, dtype=torch.float64)
    for m in range(30):
        members[torch.randperm(SAMPLES, generator=g)[: SAMPLES // 2], m] = 1
    cause = torch.randn(4, SAMPLES, generator=g, dtype=torch.float64)
    losses = -(cause @ members).T
    right = lds_over([cause @ members], losses)
    assert (right.value, right.low, right.high) == pytest.approx((1, 1, 1))
    other = torch.randn(4, SAMPLES, generator=g, dtype=torch.float64)
    wrong = lds_over([other @ members], losses)
    assert abs(wrong.value) < 4 * wrong.se
    over = lds_over([cause @ members], losses, [other @ members])
    assert over.value == pytest.approx(1 - wrong.value)


@pytest.mark.slow
def test_the_interval_of_the_score_covers_when_queries_share_their_luck() -> None:
    """Scores that say nothing; losses of all queries move together from half to half. Of 100 such studies the
    95 % interval holds zero in at least 86 (4 SE below 95, SE √(0.95 · 0.05/100) = 0.022)."""
    g, held = stream("lds coverage"), 0
    for _ in range(100):
        common = torch.randn(24, 1, generator=g, dtype=torch.float64)
        losses = common + torch.randn(24, 8, generator=g, dtype=torch.float64)
        found = lds_over([torch.randn(8, 24, generator=g, dtype=torch.float64)], losses)
        held += int(found.low < 0 < found.high)
    assert held >= 86


def test_the_interval_ends_where_correlations_do() -> None:
    """Three models say next to nothing; a difference may reach 2."""
    g = stream("few models")
    losses, predicted, other = (torch.randn(*s, generator=g) for s in ((3, 2), (2, 3), (2, 3)))
    found = lds_over([predicted], losses)
    assert -1 <= found.low < found.value < found.high <= 1
    assert 1 in (found.high, -found.low)
    over = lds_over([predicted], losses, [other])
    assert -2 <= over.low < over.high <= 2
    assert 2 in (over.high, -over.low)


def test_several_sets_of_draws_widen_the_interval_by_what_they_differ() -> None:
    """Three sets of predictions of unlike quality: their mean, and se² = se²_halves + s²/3; equal sets add
    nothing."""
    g = stream("sets")
    cause = torch.randn(6, 20, generator=g, dtype=torch.float64)
    noise = torch.randn(6, 20, generator=g, dtype=torch.float64)
    losses = -cause.T
    sets = [cause + c * noise for c in (0.5, 1.0, 3.0)]
    one = lds_over(sets[:1], losses)
    same = lds_over(sets[:1] * 3, losses)
    assert (same.value, same.se) == pytest.approx((one.value, one.se))
    found = lds_over(sets, losses)
    values = [lds(p, losses) for p in sets]
    assert found.value == pytest.approx(statistics.fmean(values))
    rest = [torch.tensor([m for m in range(20) if m != out]) for out in range(20)]
    left = [statistics.fmean(lds(p, losses, keep) for p in sets) for keep in rest]
    halves = 19 / 20 * sum((v - statistics.fmean(left)) ** 2 for v in left)
    draws = statistics.variance(values) / 3
    assert found.se**2 == pytest.approx(halves + draws)
    freedom = (halves + draws) ** 2 / (halves**2 / 19 + draws**2 / 2)
    assert 2 < freedom < 10  # the sets differ more than the halves
    assert found.value - found.low == pytest.approx(t_quantile(0.975, freedom) * found.se)
    nothing = lds_over(sets, losses, sets)
    assert (nothing.value, nothing.se) == (0, 0)
