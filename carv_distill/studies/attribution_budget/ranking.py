"""How well a limited budget ranks: correlation with the ranking of a high one."""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch
from torch import Tensor

from carv_distill.attribution import GroupProducts, build_projector, sample_features, spearman
from carv_distill.carv import Draws, Estimate, stream
from carv_distill.carv.estimate import t_quantile

from .arms import BUDGETS, draws_of
from .models import gradients_of, subject_of

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
        drawn = Draws(draws.u, draws.weight, draws.eps)
        chunk = max(1, 128 // min(count, PART))
        mean = sample_features(gradients, whole, samples.x, samples.cond, drawn, chunk) / parts
        total = mean if total is None else total.add_(mean)
    assert total is not None
    products = [GroupProducts.of(total[:QUERIES], block).cosine(False) for block in total.split(8)]
    return torch.cat(products, 1)


def correlations(replicates: list[dict[str, Any]], truth: list[list[float]]) -> dict[int, Estimate]:
    """Spearman's correlation of each budget with the reference, mean over replicates and over queries, a
    query being no candidate of its own; interval over the 11 queries, by leaving out one at a time."""
    found = {}
    for k in BUDGETS:
        per_query = []
        for q in range(QUERIES):
            others = [i for i in range(len(truth[0])) if i != q]
            right = torch.tensor(truth[q])[others]
            per_query.append(
                statistics.fmean(
                    float(spearman(torch.tensor(r[str(k)][q])[others], right)) for r in replicates
                )
            )
        found[k] = _jackknife(per_query)
    return found


def _jackknife(values: list[float], level: float = 0.95) -> Estimate:
    """Mean of values, its standard error by leaving out one at a time."""
    n, mean = len(values), statistics.fmean(values)
    left = [(n * mean - v) / (n - 1) for v in values]
    se = math.sqrt((n - 1) / n * math.fsum((v - mean) ** 2 for v in left))
    half = t_quantile((1 + level) / 2, n - 1) * se
    return Estimate(mean, se, mean - half, mean + half)
