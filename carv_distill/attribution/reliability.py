"""How well a ranking is known: rank correlations, and the draws that a reliable one takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from scipy.stats import rankdata
from torch import Tensor

from carv_distill.carv import stream

TOP = 8
SPLITS = 35
"""Disjoint pairs of sets of groups that are looked at for each size, at most."""


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation along the last dimension, ties at their mean rank; shapes [..., n] → [...].

    NaN where one side is constant.

    Source: Spearman (1904).
    """
    ranks = [torch.from_numpy(rankdata(t.detach().cpu().double().numpy(), axis=-1)) for t in (a, b)]
    centred = [r - r.mean(-1, keepdim=True) for r in ranks]
    product = (centred[0] * centred[1]).sum(-1)
    return product / (centred[0].square().sum(-1) * centred[1].square().sum(-1)).sqrt()


@dataclass(frozen=True)
class Reliability:
    """Rank correlation between two rankings from independent draws, as many for each."""

    draws: float
    between: float
    """Mean over queries and splits of Spearman's correlation of the two."""
    top: float = math.nan
    """Share of the first :data:`TOP` that the two have in common, likewise."""

    @property
    def with_mean(self) -> float:
        """√between: about the correlation with the mean of all rankings like these.

        Of debiased scores that is the ranking of infinitely many draws; naive ones are all disturbed alike,
        and agree better than they are right.
        """
        return max(self.between, 0.0) ** 0.5

    def predicted(self, draws: float) -> Reliability:
        """With n times as many draws: ρ_n = n ρ/(1 + (n − 1) ρ) (Spearman 1910, Brown 1910)."""
        n = draws / self.draws
        return Reliability(draws, n * self.between / (1 + (n - 1) * self.between))

    def needed(self, with_mean: float = 0.95) -> float:
        """Draws for such a correlation with the mean; infinite if no two rankings agree."""
        target, rho = with_mean**2, self.between
        if rho <= 0:
            return float("inf")
        return self.draws * target * (1 - rho) / (rho * (1 - target))


def reliability(
    score: Callable[[Sequence[int]], Tensor], groups: int, draws: int, least: int = 1
) -> list[Reliability]:
    """Agreement of rankings by disjoint sets of 1, 2, … G/2 groups of draws.

    Args:
        score: the scores [Q, n] by some of the groups alone, for queries and training samples alike.
        groups: G.
        draws: of one group.
        least: groups that a score needs, 2 for debiased ones.
    """
    known = []
    for size in range(least, groups // 2 + 1):
        values = []
        for a, b in _splits(groups, size):
            one, other = score(a), score(b)
            values.append(torch.stack([spearman(one, other).mean(), _common(one, other)]))
        between, top = torch.stack(values).mean(0).tolist()
        known.append(Reliability(size * draws, between, top))
    return known


def _common(a: Tensor, b: Tensor) -> Tensor:
    """Share of the TOP highest of each row of a that are among those of b, mean over rows."""
    count = min(TOP, a.shape[-1])
    first, second = (t.topk(count, -1).indices for t in (a, b))
    return (first[..., None] == second[..., None, :]).any(-1).double().mean()


def _splits(groups: int, size: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Unordered pairs of disjoint sets of groups: all, or some at random where there are many."""
    if math.comb(groups, size) * math.comb(groups - size, size) // 2 > SPLITS:
        g = stream("attribution", "splits", groups, size)
        for _ in range(SPLITS):
            order = torch.randperm(groups, generator=g).tolist()
            yield tuple(order[:size]), tuple(order[size : 2 * size])
        return
    for first in combinations(range(groups), size):
        for second in combinations([g for g in range(first[0] + 1, groups) if g not in first], size):
            yield first, second
