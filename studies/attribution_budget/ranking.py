"""How well a limited budget ranks: correlation with the ranking of a high one."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from carv_distill.attribution.gradients import sample_features
from carv_distill.attribution.projection import build_projector
from carv_distill.attribution.ranking import spearman
from carv_distill.attribution.scores import GroupProducts
from carv_distill.carv import stream
from carv_distill.variance import Estimate
from carv_distill.variance.estimate import t_quantile
from studies.attribution_budget.arms import BUDGETS, draws_of
from studies.attribution_budget.models import gradients_of, subject_of

QUERIES = 11
RANKED = ("iid", "Strat", "IW+Strat", "best")
PART = 64
"""Draws of a network call for one sample."""


def reference(model: str, best: dict[str, Any], seed: int, pool: int, draws: int) -> dict[str, Any]:
    """Scores of `pool` samples for the first 11 of them, by the mean gradients over many draws of `best`, in
    independent sets of 64."""
    return {"scores": _scores(model, best, "best", seed, pool, draws, "reference").tolist()}


def ranking(model: str, best: dict[str, Any], arm: str, seed: int, pool: int, number: int) -> dict[str, Any]:
    """The same by one set of K draws, for every K."""
    return {str(k): _scores(model, best, arm, seed, pool, k, f"replicate {number}").tolist() for k in BUDGETS}


def _scores(
    model: str, best: dict[str, Any], arm: str, seed: int, pool: int, count: int, name: str
) -> Tensor:
    """Cosines [11, pool], naive, of gradients over draws that all samples share."""
    subject, gradients = subject_of(model), gradients_of(model)
    g = stream(seed, "ranking", model)
    samples = subject.training.at(torch.randperm(len(subject.training), generator=g)[:pool].tolist())
    whole = build_projector("none", 1, 0)
    total: Tensor | None = None
    parts = max(1, count // PART)
    for part in range(parts):
        shape = samples.x.shape[1:]
        draws = draws_of(arm, best, min(count, PART), shape, seed, "ranking", model, name, part)
        chunk = max(1, 128 // min(count, PART))
        mean = sample_features(gradients, whole, samples.x, samples.cond, draws, chunk) / parts
        total = mean if total is None else total.add_(mean)
    assert total is not None
    products = [GroupProducts.of(total[:QUERIES], block).cosine(False) for block in total.split(8)]
    return torch.cat(products, 1)


def correlations(replicates: list[dict[str, Any]], truth: list[list[float]]) -> dict[int, Estimate]:
    """Spearman's correlation of each budget with the reference, mean over sets of draws and over queries, a
    query being no candidate of its own.

    All queries of a set share its draws, so both vary: SE² = SE²_queries + SE²_sets, from the spread of the
    means by query and by set; degrees of freedom by Satterthwaite's approximation.
    """
    found = {}
    right = torch.tensor(truth)
    others = ~torch.eye(QUERIES, right.shape[1], dtype=torch.bool)
    for k in BUDGETS:
        values = []
        for r in replicates:
            scores = torch.tensor(r[str(k)])
            values.append(
                [float(spearman(scores[q][others[q]], right[q][others[q]])) for q in range(QUERIES)]
            )
        found[k] = _two_way(torch.tensor(values, dtype=torch.float64))
    return found


def _two_way(values: Tensor, level: float = 0.95) -> Estimate:
    """Mean of values [sets, queries], both of them samples."""
    parts, freedom = [], []
    for means in (values.mean(0), values.mean(1)):
        parts.append(float(means.var()) / len(means))
        freedom.append(len(means) - 1)
    square = sum(parts)
    mean = float(values.mean())
    if square == 0:
        return Estimate(mean, 0.0, mean, mean)
    degrees = square**2 / sum(p**2 / f for p, f in zip(parts, freedom, strict=True))
    half = t_quantile((1 + level) / 2, degrees) * math.sqrt(square)
    return Estimate(mean, math.sqrt(square), mean - half, mean + half)
