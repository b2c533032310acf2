"""What rankings are worth in models trained anew."""

from __future__ import annotations

import statistics

import pytest
import torch

from carv_distill.attribution.retrained.lds import lds, lds_over
from carv_distill.carv import stream
from carv_distill.variance.estimate import t_quantile
from studies.attribution_budget import retraining

BEST = {"strategy": "paired", "noise": "antithetic", "mass": [0.7, 0.3]}


def test_models_of_halves_are_predicted_by_scores_that_cause_their_losses() -> None:
    members = torch.zeros(retraining.POOL, 30, dtype=torch.float64)
    for m in range(30):
        half = retraining.half(m, 0)
        assert len(set(half)) == retraining.POOL // 2
        members[half, m] = 1
    g = stream("lds")
    cause = torch.randn(4, retraining.POOL, generator=g, dtype=torch.float64)
    losses = -(cause @ members).T
    right = lds_over([cause @ members], losses)
    assert (right.value, right.low, right.high) == pytest.approx((1, 1, 1))
    other = torch.randn(4, retraining.POOL, generator=g, dtype=torch.float64)
    wrong = lds_over([other @ members], losses)
    assert abs(wrong.value) < 4 * wrong.se
    over = lds_over([cause @ members], losses, [other @ members])
    assert over.value == pytest.approx(1 - wrong.value)


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
    assert found.high - found.low == pytest.approx(2 * t_quantile(0.975, freedom) * found.se)
    nothing = lds_over(sets, losses, sets)
    assert (nothing.value, nothing.se) == (0, 0)


def test_rows_say_of_how_many_sets_they_are() -> None:
    g = stream("rows")

    def one() -> dict[str, torch.Tensor]:
        return {kind: torch.randn(4, 6, generator=g, dtype=torch.float64) for kind in retraining.SCORES}

    losses = torch.randn(6, 4, generator=g, dtype=torch.float64).tolist()
    scores = {(arm, 4): [one(), one()] for arm in retraining.TESTED}
    rows = retraining.score_rows({"halves": losses, "scores": scores})
    assert [r["sets"] for r in rows] == [2] * 6
    removal = [{"against": a, "query": None, "percent": 1.0, "percent_se": 0.1, "percent_low": 0.5,
                "percent_high": 1.5} for a in ("random", "class")]  # fmt: skip
    assert "trak (one model; each number the mean of 2 sets of draws)" in " ".join(
        retraining.verdict(rows, removal)
    )


def test_queries_are_not_in_the_pool_and_classes_are_as_said() -> None:
    digits, pool, queries = retraining.data()
    assert not set(pool.tolist()) & set(queries.tolist())
    places = retraining.same_class(3, 40, 0)
    assert len(set(places)) == 40
    assert (digits.labels[pool[places]] == digits.labels[queries[3]]).all()


def test_a_removal_is_compared_with_random_ones_of_its_seed() -> None:
    share = {"top": 1.1, "class": 1.0, "random": 0.5}
    removed = {kind: [[[part] * 32, [2 * part] * 32] for _ in range(2)] for kind, part in share.items()}
    rows = {(r["against"], r["query"]): r["percent"] for r in retraining.removal_rows(removed)}
    assert rows["class", 0] == rows["class", None] == pytest.approx(10)
    assert rows["random", 1] == pytest.approx(120)


@pytest.mark.slow
def test_a_small_model_trains_and_is_attributed() -> None:
    """A few steps: the same weights again, and scores of the right shapes."""
    weights = retraining.train_on_all(20, 0)
    assert all((w == weights[name]).all() for name, w in retraining.train_on_all(20, 0).items())
    found = retraining.scores(weights, BEST, "best", 2, 3, 5, 0)
    assert found["trak"].shape == (retraining.QUERIES, 3)
    other = retraining.scores(weights, BEST, "best", 2, 3, 5, 0, number=1)
    assert not torch.allclose(other["trak"], found["trak"])
    assert found["top"].shape == (retraining.QUERIES, 5)
