"""What rankings are worth in models trained anew."""

from __future__ import annotations

import pytest
import torch

from carv_distill.carv import stream
from studies.attribution_budget import retraining

BEST = {"strategy": "paired", "noise": "antithetic", "mass": [0.7, 0.3]}


def test_halves_are_halves_of_the_pool() -> None:
    halves = [retraining.half(m, 0) for m in range(4)]
    assert {len(set(half)) for half in halves} == {retraining.POOL // 2}
    assert len({tuple(half) for half in halves}) == 4


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
