"""Votes of several queries for training samples."""

from __future__ import annotations

import pytest
import torch

from carv_distill.attribution.ranking.votes import count_votes
from carv_distill.carv import stream

SCORES = torch.tensor(
    [
        [9.0, 8.0, 0.0, 7.0, -90.0],
        [0.9, 0.1, 0.8, 0.2, 0.0],
        [-1.0, -0.1, -0.2, -3.0, -4.0],
    ],
    dtype=torch.float64,
)


def test_by_hand() -> None:
    """Two votes each: of the first query 0, 1; of the second 0, 2; of the third 1, 2. Sample 2 has as many as
    0 and 1 and the lowest mean of the three; among those without votes 3 has a higher mean than 4."""
    votes = count_votes(SCORES, 2)
    assert votes.counts.tolist() == [2, 2, 2, 0, 0]
    torch.testing.assert_close(votes.mean, SCORES.mean(0))
    assert votes.order.tolist() == [0, 1, 2, 3, 4]
    assert count_votes(SCORES, 1).order.tolist() == [0, 1, 3, 2, 4]
    assert votes.ranks.tolist() == [4, 3, 2, 1, 0]


def test_a_query_s_scale_is_no_power() -> None:
    """A thousand times longer gradients of one query leave all votes as they were, but not the mean."""
    scores = torch.randn(5, 40, generator=stream("votes"), dtype=torch.float64)
    louder = scores * torch.tensor([1000.0, 1, 1, 1, 1])[:, None]
    assert torch.equal(count_votes(louder, 8).counts, count_votes(scores, 8).counts)
    assert not torch.equal(louder.mean(0).topk(8).indices, scores.mean(0).topk(8).indices)
    votes = count_votes(scores, 8)
    assert votes.counts.sum() == 5 * 8
    assert torch.equal(votes.ranks.argsort(descending=True), votes.order)


def test_a_query_has_no_vote_for_itself() -> None:
    """Nor does it count in that sample's mean; who is a candidate of none comes last."""
    scores = SCORES.clone()
    scores[0, 0] = scores[1, 0] = scores[2, 0] = scores[0, 1] = -torch.inf
    votes = count_votes(scores, 4)
    assert votes.counts.tolist() == [0, 2, 3, 3, 3]
    assert votes.mean[0] == -torch.inf
    assert votes.mean[1] == pytest.approx(0.0)
    assert votes.order.tolist() == [3, 2, 4, 1, 0]


def test_equal_scores_go_by_number_and_too_many_votes_are_all() -> None:
    assert count_votes(torch.zeros(2, 6), 3).counts.tolist() == [2, 2, 2, 0, 0, 0]
    assert count_votes(SCORES, 9).counts.tolist() == [3] * 5
    with pytest.raises(ValueError, match="at least 1 training sample, found 0"):
        count_votes(SCORES, 0)
