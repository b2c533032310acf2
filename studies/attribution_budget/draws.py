"""Levels, variances and rankings of both models: what is computed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from carv_distill.attribution.gradients.projection import build_projector
from carv_distill.attribution.gradients.sample_gradients import sample_features
from carv_distill.attribution.ranking.reliability import spearman
from carv_distill.attribution.ranking.scores import GroupProducts
from carv_distill.carv import stream
from carv_distill.variance import (
    Estimate,
    NoiseLevelProfile,
    VarianceBudget,
    mean_estimate,
    paired_ratio,
)
from carv_distill.variance.estimate import student
from studies.attribution_budget.arms import (
    ARMS,
    BUDGETS,
    draws_of,
    gradients_of,
    model_of,
    pilot,
    pipeline_of,
)
from studies.cached import Compute

Sizes = Mapping[str, SimpleNamespace]
Measured = Mapping[str, Mapping[str, Any]]
"""Model → results by the name of a part."""
QUERIES = 11
RANKED = ("iid", "Strat", "IW+Strat", "best")
PART = 64
"""Draws of a network call for one sample."""
REFERENCE = 64
"""Draws of each of the two means that a grid's bias is measured against."""

Terms = dict[tuple[str, int], float]
"""By arm and K; "bias" is of the fixed grid."""


LATENTS = SimpleNamespace(
    pilot_samples=12, pilot_bins=16, level_samples=32, reference_draws=256,
    replicates=14, samples=2,  # of the variances; training samples in each
    rankings=3, pool=32,  # sets of draws for each sampler and K; samples that are ranked, with the queries
)  # fmt: skip
DIGITS = SimpleNamespace(
    pilot_samples=12, pilot_bins=16, level_samples=32, reference_draws=512,
    replicates=24, samples=8, rankings=5, pool=96,
)  # fmt: skip
_FEW = {"pilot_samples": 3, "pilot_bins": 4, "level_samples": 3, "reference_draws": 64, "replicates": 3}
# A draw of the latent model costs eight of the other. The longer work first.
FULL = {"latents": LATENTS, "digits": DIGITS}
QUICK = {
    "latents": SimpleNamespace(**_FEW, samples=1, rankings=2, pool=13),
    "digits": SimpleNamespace(**_FEW, samples=2, rankings=2, pool=14),
}


def levels(model: str, seed: int, samples: int, bins: int) -> tuple[VarianceBudget, NoiseLevelProfile]:
    """A single draw's budget of variance, and its gradient's norm over noise levels."""
    pipeline = pipeline_of(model)
    own = stream(seed, "levels", "budget")
    budget = VarianceBudget.measure(pipeline, (), own, upstreams=samples, levels=4, noises=2)
    return budget, NoiseLevelProfile.measure(pipeline, (), stream(seed, "levels", "profile"), bins, samples)


def replicate(model: str, best: dict[str, Any], number: int, seed: int, count: int) -> Terms:
    """One term of every arm's variance at every K: mean over `count` samples of ‖ḡ − ḡ'‖²/2, ḡ and ḡ' from
    two independent sets of K draws; all arms see the same samples.

    For the fixed grid, whose error is not all variance, also ⟨ḡ − r, ḡ' − r'⟩ with r, r' independent
    means of `best`: its expectation is the squared bias.
    """
    training, gradients = model_of(model).training, gradients_of(model)
    g = stream(seed, "variance", model, number)
    samples = training.batch(torch.randint(len(training), (count,), generator=g))
    shape = training.shape

    def means(arm: str, k: int, half: int) -> torch.Tensor:
        draws = draws_of(arm, best, k, shape, seed, "variance", model, number, half)
        parts = []
        for start in range(0, count, max(1, 128 // k)):
            part = slice(start, start + max(1, 128 // k))
            parts.append(gradients(samples[part], draws.row(0)))
        return torch.cat(parts)

    terms: Terms = {}
    reference = [means("best", REFERENCE, half) for half in (2, 3)]
    for arm in ARMS:
        for k in BUDGETS:
            pair = [means(arm, k, half) for half in (0, 1)]
            terms[arm, k] = (pair[0] - pair[1]).double().square().sum(1).mean().item() / 2
            if arm == "fixed grid":
                errors = [(p - r).double() for p, r in zip(pair, reference, strict=True)]
                terms["bias", k] = (errors[0] * errors[1]).sum(1).mean().item()
    return terms


def variances(replicates: Sequence[Terms]) -> dict[tuple[str, int], Estimate]:
    """Of every arm and K; of the fixed grid the mean squared error.

    K times the variance of iid draws is one number for all K, so it is estimated from all of them.
    """
    estimates = {}
    for arm in ARMS:
        for k in BUDGETS:
            terms = [r[arm, k] + (r["bias", k] if arm == "fixed grid" else 0.0) for r in replicates]
            if arm == "iid":
                terms = [statistics.fmean(j * r["iid", j] for j in BUDGETS) / k for r in replicates]
            estimates[arm, k] = mean_estimate(terms, positive=True)
    return estimates


def ecm_over_iid(measured: dict[tuple[str, int], Estimate]) -> dict[tuple[str, int], Estimate]:
    """Var_iid/Var_arm at equal K: the ratio of draws, as a draw costs the same for all."""
    return {(arm, k): paired_ratio(measured["iid", k], e) for (arm, k), e in measured.items() if arm != "iid"}


def reference(model: str, best: dict[str, Any], seed: int, pool: int, draws: int) -> Tensor:
    """Scores of `pool` samples for the first 11 of them, by the mean gradients over many draws of `best`, in
    independent sets of 64."""
    return _scores(model, best, "best", seed, pool, draws, "reference")


def ranking(
    model: str, best: dict[str, Any], arm: str, seed: int, pool: int, number: int
) -> dict[int, Tensor]:
    """The same by one set of K draws, for every K."""
    return {k: _scores(model, best, arm, seed, pool, k, f"replicate {number}") for k in BUDGETS}


def _scores(
    model: str, best: dict[str, Any], arm: str, seed: int, pool: int, count: int, name: str
) -> Tensor:
    """Cosines [11, pool], naive, of gradients over draws that all samples share."""
    training, gradients = model_of(model).training, gradients_of(model)
    g = stream(seed, "ranking", model)
    samples = training.batch(torch.randperm(len(training), generator=g)[:pool])
    whole = build_projector("none", 1, 0)
    total: Tensor | None = None
    parts = max(1, count // PART)
    for part in range(parts):
        draws = draws_of(arm, best, min(count, PART), training.shape, seed, "ranking", model, name, part)
        chunk = max(1, 128 // min(count, PART))
        mean = sample_features(gradients, whole, samples, draws, chunk) / parts
        total = mean if total is None else total.add_(mean)
    assert total is not None
    products = [GroupProducts.of(total[:QUERIES], block).cosine(False) for block in total.split(8)]
    return torch.cat(products, 1)


def correlations(replicates: Sequence[Mapping[int, Tensor]], truth: Tensor) -> dict[int, Estimate]:
    """Spearman's correlation of each budget with the reference, mean over sets of draws and over queries."""
    return {k: two_way(agreement([r[k] for r in replicates], truth)) for k in replicates[0]}


def agreement(replicates: Sequence[Tensor], truth: Tensor) -> Tensor:
    """Spearman's correlation with the reference of each set of draws and query, [sets, queries]; a query is
    no candidate of its own."""
    others = ~torch.eye(QUERIES, truth.shape[1], dtype=torch.bool)

    def correlation(scores: Tensor, q: int) -> float:
        return float(spearman(scores[q][others[q]], truth[q][others[q]]))

    values = [[correlation(scores, q) for q in range(QUERIES)] for scores in replicates]
    return torch.tensor(values, dtype=torch.float64)


def two_way(values: Tensor) -> Estimate:
    """Mean of values [sets, queries], both of them samples.

    All queries of a set share its draws, so both vary: SE² = SE²_queries + SE²_sets, from the spread of the
    means by query and by set; degrees of freedom by Satterthwaite's approximation.
    """
    means = values.mean(0), values.mean(1)
    parts = [float(m.var()) / len(m) for m in means]
    square, mean = sum(parts), float(values.mean())
    if square == 0:
        return Estimate(mean, 0.0, mean, mean)
    degrees = square**2 / sum(p**2 / (len(m) - 1) for p, m in zip(parts, means, strict=True))
    return student(mean, math.sqrt(square), degrees)


def samplers(compute: Compute, sizes: Sizes, seed: int) -> dict[str, Any]:
    """The sampler `best` of each model."""
    calls = {m: partial(pilot, m, seed, o.pilot_samples, o.pilot_bins) for m, o in sizes.items()}
    results: dict[str, Any] = compute(calls)
    return results


def measure(compute: Compute, sizes: Sizes, best: Mapping[str, Any], seed: int) -> Measured:
    """Results of both models.

    Args:
        best: sampler of each model.
    """
    calls = {
        m: {
            "levels": partial(levels, m, seed, o.level_samples, o.pilot_bins),
            "reference": partial(reference, m, best[m], seed, o.pool, o.reference_draws),
            "ranking": {
                arm: [partial(ranking, m, best[m], arm, seed, o.pool, i) for i in range(o.rankings)]
                for arm in RANKED
            },
            "variance": [partial(replicate, m, best[m], i, seed, o.samples) for i in range(o.replicates)],
        }
        for m, o in sizes.items()
    }
    measured: Measured = compute(calls)
    return measured
