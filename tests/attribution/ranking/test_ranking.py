"""Rankings from stores, and their files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from carv_distill.attribution.features.store import FeatureStore
from carv_distill.attribution.ranking.ranking import rank, scores_digest
from carv_distill.attribution.ranking.reliability import spearman
from carv_distill.attribution.ranking.scores import GroupProducts, TrakScores
from carv_distill.attribution.ranking.votes import count_votes
from carv_distill.carv import stream
from carv_distill.errors import UserError
from carv_distill.variance.estimate import t_quantile


def stored(folder: Path, features: torch.Tensor) -> FeatureStore:
    store = FeatureStore(folder, *features.shape, {"model": "m"}, block=4)
    for block in store.missing():
        store.write(block, features[store.rows(block)])
    return store


def features(n: int, name: str = "a") -> torch.Tensor:
    return torch.randn(n, 4, 6, generator=stream("influence", name, n))


def test_scores_of_every_kind_are_those_of_their_formula(tmp_path: Path) -> None:
    train, query = features(10), features(3)
    store = stored(tmp_path / "a", train)
    products = GroupProducts.of(query, train)
    assert torch.allclose(rank([query], [store], "inner").scores, products.inner(False))
    assert torch.allclose(rank([query], [store], "inner", True).scores, products.inner(True))
    assert torch.allclose(rank([query], [store]).scores, products.cosine(False))
    trak = TrakScores(query, lambda: [train], 0.2)
    assert torch.allclose(rank([query], [store], "trak", damping=0.2).scores, trak())
    assert torch.equal(
        rank([query], [store], "trak").scores,
        rank([query], [store], "trak", damping=1).scores,
    )
    other, query_there = features(10, "b"), features(3, "b")
    both = rank([query, query_there], [store, stored(tmp_path / "b", other)], "tracin", weights=[0.1, 0.3])
    expected = 0.1 * products.inner(False) + 0.3 * GroupProducts.of(query_there, other).inner(False)
    assert torch.allclose(both.scores, expected)
    assert both.half_width.shape == (3, 10)
    assert (both.half_width > 0).all()


def test_traks_intervals_and_reliability_are_those_of_independent_draws(tmp_path: Path) -> None:
    """Each set of groups has a matrix of its own: both are those of features that were stored apart."""
    train, query = features(10), features(3)
    found = rank([query], [stored(tmp_path / "all", train)], "trak", damping=0.2)

    def alone(keep: list[int]) -> torch.Tensor:
        name = "".join(map(str, keep))
        store = stored(tmp_path / name, train[:, keep])
        return rank([query[:, keep]], [store], "trak", damping=0.2).scores

    left = torch.stack([alone([g for g in range(4) if g != out]) for out in range(4)])
    se = (left.var(0, unbiased=False) * 3).sqrt()
    assert torch.allclose(found.half_width, t_quantile(0.975, 3) * se)
    ones = [alone([g]) for g in range(4)]
    pairs = [spearman(ones[a], ones[b]).mean().item() for a in range(4) for b in range(a + 1, 4)]
    halves = [(alone(a), alone(b)) for a, b in (([0, 1], [2, 3]), ([0, 2], [1, 3]), ([0, 3], [1, 2]))]
    apart = [spearman(a, b).mean().item() for a, b in halves]
    expected = [sum(pairs) / 6, sum(apart) / 3]
    assert [r.between for r in found.reliability] == pytest.approx(expected)


def test_a_query_is_no_candidate_of_its_own(tmp_path: Path) -> None:
    train = features(10)
    store = stored(tmp_path, train)
    found = rank([train[[7, 2]]], [store], left_out=torch.tensor([7, -1]))
    assert found.scores[0, 7] == -torch.inf
    assert 7 not in found.top(9)[0]
    assert found.top(1)[1] == 2
    assert found.scores[1].isfinite().all()


def test_a_query_whose_gradient_is_not_finite_is_named(tmp_path: Path) -> None:
    store = stored(tmp_path, features(5))
    broken = features(3)
    broken[1, 2, 3] = torch.nan
    with pytest.raises(UserError, match="query 1: its gradient holds NaN or infinity"):
        rank([broken], [store])


def test_a_score_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="score must be one of cosine, inner, tracin, trak; found 'dot'"):
        rank([features(2)], [stored(tmp_path, features(5))], "dot")


def test_other_features_than_the_stores_are_refused(tmp_path: Path) -> None:
    store = stored(tmp_path, features(5))
    with pytest.raises(UserError, match=r"features \[4, 6\] \(groups, size\), the queries \[4, 5\]"):
        rank([features(2)[..., :5]], [store])


def test_several_queries_vote(tmp_path: Path) -> None:
    """By default each for a tenth, rounded up; a single query has no votes, in memory and in files."""
    train, query = features(25), features(4)
    store = stored(tmp_path / "s", train)
    found = rank([query], [store], votes=7)
    assert found.votes is not None
    assert torch.equal(found.votes.counts, count_votes(found.scores, 7).counts)
    tenth = rank([query], [store]).votes
    assert tenth is not None
    assert (tenth.each, int(tenth.counts.sum())) == (3, 12)
    assert all(-1 <= r.voted <= 1 for r in found.reliability)
    alone = rank([query[:1]], [store])
    assert alone.votes is None
    assert all(math.isnan(r.voted) for r in alone.reliability)
    alone.save(tmp_path / "alone.npz", torch.arange(25))
    with np.load(tmp_path / "alone.npz", allow_pickle=False) as file:
        assert "votes" not in file


def test_files_hold_every_score(tmp_path: Path) -> None:
    train, query = features(10), features(3)
    found = rank(
        [query],
        [stored(tmp_path / "s", train)],
        left_out=torch.tensor([-1, 5, -1]),
        draws=2,
        about={"score": "cosine"},
    )
    assert [r.draws for r in found.reliability] == [2, 4]
    assert found.votes is not None
    numbers = torch.arange(10) * 7 + 3  # of every seventh of a larger set
    found.save(tmp_path / "scores.npz", numbers)
    with np.load(tmp_path / "scores.npz", allow_pickle=False) as file:
        assert file["query_numbers"].tolist() == [-1, 38, -1]
        assert file["numbers"].tolist() == numbers.tolist()
        assert np.isnan(file["scores"][1, 5])
        assert scores_digest(torch.from_numpy(file["scores"])) == scores_digest(found.scores)
        assert scores_digest(found.scores) != scores_digest(found.scores + 1e-12)
        others = np.isfinite(file["scores"])
        assert others.sum() == 29
        assert np.array_equal(file["scores"][others], found.scores.numpy()[others])
        assert np.allclose((file["high"] - file["low"])[others], 2 * found.half_width.numpy()[others])
        assert np.array_equal(file["order"], found.top(10).numpy())
        assert json.loads(str(file["about"])) == {"score": "cosine"}
        assert file["votes"].tolist() == found.votes.counts.tolist()
        assert file["voted_order"].tolist() == found.votes.order.tolist()
    parquet = pytest.importorskip("pyarrow.parquet")
    found.save(tmp_path / "scores.parquet", numbers)
    rows = parquet.read_table(tmp_path / "scores.parquet").to_pylist()
    assert len(rows) == 30
    best = next(r for r in rows if r["query"] == 1 and r["rank"] == 0)
    assert best["train"] == int(numbers[found.top(1)[1]])
    assert best["score"] == found.scores[1].max().item()
    own = next(r for r in rows if r["query"] == 1 and r["train"] == 38)
    assert own["score"] is None
    assert own["rank"] == 9
    assert all(r["votes"] == found.votes.counts[(r["train"] - 3) // 7] for r in rows)
    with pytest.raises(UserError, match=r"scores.csv: scores are saved as .npz or .parquet"):
        found.save(tmp_path / "scores.csv", numbers)
