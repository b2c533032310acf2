"""What scores are worth: outcomes that they predict, held against models that were trained anew."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from carv_distill.attribution.ranking.reliability import spearman
from carv_distill.variance import Estimate, mean_estimate
from carv_distill.variance.estimate import student


def lds(predicted: Tensor, losses: Tensor, keep: Tensor | None = None) -> float:
    """Linear datamodeling score: Spearman's correlation, over models of parts of the data, of the outcome
    that is predicted with minus the loss, mean over the queries.

    Args:
        predicted: Σ of the scores of a model's training samples, [Q, M].
        losses: of the queries under each model, [M, Q].
        keep: of these models some; all by default.

    Source: Park et al. 2023 (TRAK), definition 2.3.
    """
    rows = torch.arange(len(losses)) if keep is None else keep
    return float(spearman(predicted[:, rows], -losses.T[:, rows]).mean())


def lds_over(predicted: Sequence[Tensor], losses: Tensor, base: Sequence[Tensor] | None = None) -> Estimate:
    """The score, mean over independent sets of draws, or its difference from that of other predictions.

    Its interval is over models and sets: se² = se²_models + s²_sets/S, the first by the jackknife over the
    models of the mean over the sets, as all queries share the models and are no independent measurements; s
    the standard deviation over the S sets, left out for a single one. Student's t with Welch and
    Satterthwaite's degrees of freedom, cut where no such score, or difference, can lie. What models and sets
    do jointly is in both terms, so it errs to the wide side.

    Args:
        predicted, base: of each set of draws, [Q, M].
        losses: [M, Q].
    """

    def by_set(keep: Tensor | None = None) -> list[float]:
        own = [lds(p, losses, keep) for p in predicted]
        return own if base is None else [o - lds(b, losses, keep) for o, b in zip(own, base, strict=True)]

    n, values = len(losses), by_set()
    sets = len(values)
    left = [statistics.fmean(by_set(torch.tensor([m for m in range(n) if m != out]))) for out in range(n)]
    models = (n - 1) / n * math.fsum((v - statistics.fmean(left)) ** 2 for v in left)
    draws = statistics.variance(values) / sets if sets > 1 else 0.0
    parts = models**2 / (n - 1) + (draws**2 / (sets - 1) if sets > 1 else 0.0)
    freedom = (models + draws) ** 2 / parts if parts else n - 1
    found = student(statistics.fmean(values), math.sqrt(models + draws), freedom)
    most = 1 if base is None else 2
    return replace(found, low=max(found.low, -most), high=min(found.high, most))


def removal(without_top: Sequence[Sequence[float]], without_others: Sequence[Sequence[float]]) -> Estimate:
    """Percent by which a query's loss is higher without its most influential samples than without others of
    as many, mean over the queries, with an interval over them.

    Args:
        without_top: of each query, its loss under every model that lacks its most influential samples.
        without_others: likewise under every model that lacks others.

    Source: Park et al. 2023 (TRAK), section 5.2, there of predictions that are brought to flip.
    """
    gains = [
        100 * (statistics.fmean(top) / statistics.fmean(others) - 1)
        for top, others in zip(without_top, without_others, strict=True)
    ]
    return mean_estimate(gains)
