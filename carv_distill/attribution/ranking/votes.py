"""One ranking of the training samples for several queries, by votes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Votes:
    """What several queries have voted for."""

    each: int
    """k, training samples that a query votes for."""
    counts: Tensor
    """Votes of each training sample, int64 [N]."""
    mean: Tensor
    """Mean score over the queries that it is a candidate of, float64 [N]; −∞ where it is one of none."""

    @property
    def order(self) -> Tensor:
        """Places of the training samples, [N]: most votes first, among equal ones the higher mean score,
        then the first."""
        by_mean = self.mean.argsort(descending=True, stable=True)
        return by_mean[self.counts[by_mean].argsort(descending=True, stable=True)]

    def first(self, count: int) -> list[int]:
        """The first of that order, at most so many, and only those that have a vote."""
        return self.order[: min(count, int((self.counts > 0).sum()))].tolist()

    @property
    def ranks(self) -> Tensor:
        """Place of each training sample in that order from its end, int64 [N]: the first has N − 1."""
        places = torch.arange(len(self.counts)).flip(0)
        return torch.empty_like(places).scatter_(0, self.order, places)


def count_votes(scores: Tensor, each: int) -> Votes:
    """v_x = Σ_q 1[x among the k highest of s(q, ·)], k = `each`.

    A vote is a query's whatever the scale of its scores, so that no query with long gradients speaks for all,
    as it does in a mean of inner products. A query has no vote for itself.

    Args:
        scores: [Q, N]; −∞ where a training sample is no candidate of a query. Of equal scores the lower
            number is higher, as in :meth:`Ranking.top`.
        each: k ≥ 1; more than there are candidates are all of them.

    Raises:
        ValueError: k below 1.

    Source: MOTIVE (arXiv 2601.08828), whose clips for fine-tuning are those with most votes.
    """
    if each < 1:
        raise ValueError(f"a query votes for at least 1 training sample, found {each}")
    top = scores.argsort(dim=1, descending=True, stable=True)[:, :each]
    candidates = scores.isfinite()
    counts = torch.zeros(scores.shape[1], dtype=torch.int64)
    counts.scatter_add_(0, top.flatten(), candidates.gather(1, top).flatten().long())
    mean = scores.double().where(candidates, 0.0).sum(0) / candidates.sum(0)
    return Votes(each, counts, mean.nan_to_num(nan=-torch.inf))
