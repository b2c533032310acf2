"""How well a ranking is known: intervals, rank correlations, and the draws that a reliable one takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from scipy.stats import rankdata
from torch import Tensor

from carv_distill.variance.estimate import t_quantile

from .votes import count_votes

TOP = 8
BLOCKS = 8
"""Sets of groups that the reliability is measured with, at most."""

Score = Callable[[Sequence[int]], Tensor]
"""Scores [Q, n] by some of the groups of draws alone, everything that they are made of included."""


def half_width(score: Score, groups: int, least: int = 1, level: float = 0.95) -> Tensor:
    """Half the confidence interval of each score over the draws, [Q, n], by the jackknife over groups; NaN
    with too few groups for one. It knows the scatter of a score and not its bias: that of a naive product, of
    a cosine's norms, or of TRAK's matrix, which is more where noise is large.

    se² = (G − 1)/G Σ_g (s_(−g) − mean)², s_(−g) the score without group g; Student's t, G − 1 degrees of
    freedom.

    Args:
        groups: G.
        least: groups that a score needs, 2 for debiased ones.

    Source: Efron and Stein (1981), Annals of Statistics 9(3).
    """
    if groups < least + 1:
        return torch.full_like(score(range(groups)), math.nan)
    left = torch.stack([score([h for h in range(groups) if h != out]) for out in range(groups)])
    se = (left.var(0, unbiased=False) * (groups - 1)).sqrt()
    return t_quantile((1 + level) / 2, groups - 1) * se


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation along the last dimension, ties at their mean rank; shapes [..., n] → [...].

    What is −∞ on both sides is no candidate of either and does not count. NaN where one side is constant.

    Source: Spearman (1904).
    """
    return (_standard_ranks(a) * _standard_ranks(b)).sum(-1)


def _standard_ranks(scores: Tensor) -> Tensor:
    """Ranks along the last dimension, centred and of unit norm, float64."""
    values = scores.detach().cpu().double()
    counts = values > -math.inf  # those that do not come first, and move the others' ranks by their number
    ranks = torch.from_numpy(rankdata(values.numpy(), axis=-1)) * counts
    centred = (ranks - ranks.sum(-1, keepdim=True) / counts.sum(-1, keepdim=True)) * counts
    return centred / centred.square().sum(-1, keepdim=True).sqrt()


@dataclass(frozen=True)
class Reliability:
    """Rank correlation between two rankings from independent draws, as many for each."""

    draws: float
    between: float
    """Mean over queries and splits of Spearman's correlation of the two."""
    top: float = math.nan
    """Share of the first :data:`TOP` that the two have in common, likewise."""
    without: tuple[float, ...] = ()
    """`between` over the splits that take none of a block of groups, for each block; empty where all splits
    take all blocks."""
    voted: float = math.nan
    """Correlation of the two orders by votes of all queries, mean over splits; NaN of a single query."""

    @property
    def with_mean(self) -> float:
        """√between: about the correlation with the mean of all rankings like these.

        Of debiased scores that is the ranking of infinitely many draws; naive ones are all disturbed alike,
        and agree better than they are right.
        """
        return max(self.between, 0.0) ** 0.5

    def half_width(self, level: float = 0.95) -> float:
        """Half the confidence interval of `between`, by the jackknife over blocks; NaN without `without`."""
        return _jackknife(self.without, level)

    def predicted(self, draws: float) -> Reliability:
        """With n times as many draws: ρ_n = n ρ/(1 + (n − 1) ρ) (Spearman 1910, Brown 1910)."""
        return Reliability(draws, _spearman_brown(self.between, draws / self.draws))

    def needed(self, with_mean: float = 0.95) -> float:
        """Draws for such a correlation with the mean; infinite if no two rankings agree."""
        target, rho = with_mean**2, self.between
        if rho <= 0:
            return float("inf")
        return self.draws * target * (1 - rho) / (rho * (1 - target))


def _spearman_brown(rho: float, n: float) -> float:
    return n * rho / (1 + (n - 1) * rho)


def reliability(
    score: Score, groups: int, draws: int, least: int = 1, costly: bool = False, votes: int | None = None
) -> list[Reliability]:
    """Agreement of rankings by disjoint sets of groups of draws, from the smallest sets to halves.

    More than :data:`BLOCKS` groups are joined to as many blocks, of equally many groups each (those that are
    left over are not used), and all pairs of disjoint sets of blocks are compared.

    Args:
        score: see :data:`Score`.
        groups: G.
        draws: of one group.
        least: groups that a score needs, 2 for debiased ones.
        costly: of a score that takes long, sets of 1, 2 and 4 blocks alone, of the last some pairs: with 8
            blocks 48 sets instead of 162.
        votes: training samples that each query votes for; None: there are no votes.
    """
    joined = -(-groups // BLOCKS)
    blocks = groups // joined
    known = []
    for size in range(-(-least // joined), blocks // 2 + 1):
        if costly and size not in (1, 2, 4):
            continue
        sets = list(combinations(range(blocks), size))
        if costly and size == 4:
            sets = _some_halves(sets)
        has = torch.tensor([[block in some for block in range(blocks)] for some in sets])
        disjoint = has.double() @ has.double().T == 0
        scores = [score([block * joined + g for block in some for g in range(joined)]) for some in sets]
        between, top = _agreement(scores)
        left = [disjoint & ~has[:, out, None] & ~has[:, out] for out in range(blocks)]
        without = tuple(between[kept].mean().item() for kept in left if kept.any())
        known.append(
            Reliability(
                size * joined * draws,
                between[disjoint].mean().item(),
                top[disjoint].mean().item(),
                without if len(without) == blocks else (),
                math.nan if votes is None else _voted(scores, votes)[disjoint].mean().item(),
            )
        )
    return known


def _some_halves(sets: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Every sixth of all 4 of 8 that hold the first, with their complements."""
    halves = [some for some in sets if 0 in some][::6]
    return [*halves, *(tuple(block for block in range(8) if block not in some) for some in halves)]


def _agreement(scores: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Spearman's correlation, and the share of their first :data:`TOP` in common, of all pairs of scores
    [Q, n], mean over queries; [S, S] each."""
    ranks = torch.stack([_standard_ranks(s) for s in scores])
    first = torch.stack([s.topk(min(TOP, s.shape[-1])).indices for s in scores])
    common = [(one[..., None] == first[..., None, :]).any(-1).double().mean((-2, -1)) for one in first]
    return ranks.flatten(1) @ ranks.flatten(1).T / ranks.shape[1], torch.stack(common)


def _voted(scores: Sequence[Tensor], votes: int) -> Tensor:
    """Spearman's correlation of the orders by votes, [S, S]."""
    ranks = torch.stack([_standard_ranks(count_votes(s, votes).ranks) for s in scores])
    return ranks @ ranks.T


@dataclass(frozen=True)
class Fit:
    """Spearman and Brown's formula, by which the draws that are needed are found, held against what was
    measured: from the agreement of larger sets of draws it predicts that of the smallest."""

    draws: float
    """Of the smallest sets."""
    measured: float
    predicted: float
    source: float
    """Draws of the larger sets."""
    half_width: float
    """Half the 95 % interval of measured − predicted, by the jackknife over blocks of groups."""

    @property
    def misses(self) -> bool:
        """Whether the interval of the difference leaves out zero: about 5 % of good fits do."""
        return not abs(self.measured - self.predicted) <= self.half_width  # a NaN is no fit


def check_fit(known: Sequence[Reliability], level: float = 0.95) -> Fit | None:
    """The formula's prediction from the largest sets whose agreement is known without each block; None with
    too few groups for two such sizes (5, or 7 of debiased scores, are enough)."""
    tested = [r for r in known if r.without]
    if len(tested) < 2:
        return None
    small, large = tested[0], tested[-1]
    n = small.draws / large.draws
    left = [s - _spearman_brown(r, n) for s, r in zip(small.without, large.without, strict=True)]
    predicted = _spearman_brown(large.between, n)
    return Fit(small.draws, small.between, predicted, large.draws, _jackknife(left, level))


def _jackknife(left: Sequence[float], level: float) -> float:
    """Half the confidence interval of what has these values without each block; NaN without any."""
    if not left:
        return math.nan
    blocks = len(left)
    se = math.sqrt(torch.tensor(left, dtype=torch.float64).var(unbiased=False).item() * (blocks - 1))
    return t_quantile((1 + level) / 2, blocks - 1) * se
