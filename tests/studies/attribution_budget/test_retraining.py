"""What rankings are worth in models trained anew."""

from __future__ import annotations

import pytest
import torch

from carv_distill.carv import stream
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
    right = retraining.lds_over_sets([cause @ members] * 2, losses)
    assert (right.value, right.low, right.high) == pytest.approx((1, 1, 1))
    others = torch.randn(3, 4, retraining.POOL, generator=g, dtype=torch.float64) @ members
    wrong = retraining.lds_over_sets(list(others), losses)
    assert abs(wrong.value) < 4 * wrong.se
    over = retraining.lds_over_sets([cause @ members] * 3, losses, list(others))
    assert over.value == pytest.approx(1 - wrong.value)


def test_the_interval_of_the_score_covers_whatever_queries_and_sets_share() -> None:
    """Scores that say nothing; losses of all queries move together from half to half. Of 100 such studies the
    95 % interval holds zero in at least 86 (4 SE below 95, SE √(0.95 · 0.05/100) = 0.022), with three sets of
    draws that agree, and with three of their own."""
    g, held = stream("lds coverage"), {0.0: 0, 1.0: 0}
    for _ in range(100):
        common = torch.randn(24, 1, generator=g, dtype=torch.float64)
        losses = common + torch.randn(24, 8, generator=g, dtype=torch.float64)
        base = torch.randn(8, 24, generator=g, dtype=torch.float64)
        for apart in held:
            noise = torch.randn(3, 8, 24, generator=g, dtype=torch.float64)
            found = retraining.lds_over_sets(list(base + apart * noise), losses)
            held[apart] += int(found.low < 0 < found.high)
    assert min(held.values()) >= 86


def test_sets_of_draws_that_disagree_widen_the_interval() -> None:
    """Half of the sets predict rightly, half nothing: the spread over sets, not over halves, is the error."""
    g = stream("lds sets")
    losses = torch.randn(40, 6, generator=g, dtype=torch.float64)
    nothing = list(torch.randn(2, 6, 40, generator=g, dtype=torch.float64))
    e = retraining.lds_over_sets([-losses.T, -losses.T, *nothing], losses)
    own = [1.0, 1.0, *(retraining.lds(p, losses) for p in nothing)]
    assert e.value == pytest.approx(sum(own) / 4)
    assert e.se > torch.tensor(own).std().item() / 2


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
    found = retraining.scores(weights, BEST, "best", 2, 3, 5, 0, 1)
    assert found["trak"].shape == (retraining.QUERIES, 3)
    assert found["top"].shape == (retraining.QUERIES, 5)
