"""What the study computes, piece by piece."""

from __future__ import annotations

from functools import partial
from typing import Any

from studies.attribution_budget import dimension, retraining
from studies.attribution_budget.arms import levels
from studies.attribution_budget.models import MODELS
from studies.attribution_budget.ranking import RANKED, ranking, reference
from studies.attribution_budget.variance import replicate
from studies.attribution_budget.work import Workshop
from studies.computed import Piece

TESTED = ("iid", "best")
"""Samplers whose scores are held against models trained anew."""


def measurements(work: Workshop) -> dict[str, Any]:
    """Levels, variances and rankings of both models: {part: {model: …}}."""
    seed, best = work.seed, work.samplers()
    pieces: dict[str, Piece] = {}
    for m, o in reversed(work.sizes.items()):  # the longer pieces first
        pieces[f"levels/{m}"] = partial(levels, m, seed, o.level_samples, o.pilot_bins)
        pieces[f"reference/{m}"] = partial(reference, m, best[m], seed, o.pool, o.reference_draws)
        for i in range(o.rankings):
            for arm in RANKED:
                pieces[f"ranking/{m}-{arm}-{i}"] = partial(ranking, m, best[m], arm, seed, o.pool, i)
        for i in range(o.replicates):
            pieces[f"variance/{m}-{i}"] = partial(replicate, m, best[m], i, seed, o.samples)
    found = work.run(pieces)
    return {
        "levels": {m: found[f"levels/{m}"] for m in MODELS},
        "variance": {
            m: [found[f"variance/{m}-{i}"] for i in range(o.replicates)] for m, o in work.sizes.items()
        },
        "reference": {m: found[f"reference/{m}"] for m in MODELS},
        "ranking": {
            m: {arm: [found[f"ranking/{m}-{arm}-{i}"] for i in range(o.rankings)] for arm in RANKED}
            for m, o in work.sizes.items()
        },
        "samplers": best,
    }


def mosaics(work: Workshop) -> dict[int, dict[str, Any]]:
    """Budget and replicates of every size of picture."""
    path = work.path("dimension.safetensors")
    steps = 30 if work.quick else 1500
    trained = work.run({"dimension/train": partial(dimension.train, path, steps, work.seed)})
    model = trained["dimension/train"]["weights"]
    pieces: dict[str, Piece] = {}
    for size, count in reversed(work.mosaics.items()):
        samples = 3 if work.quick else 12
        pieces[f"dimension/budget-{size}"] = partial(dimension.budget, path, model, size, samples, work.seed)
        for i in range(count):
            pieces[f"dimension/{size}-{i}"] = partial(dimension.replicate, path, model, size, i, work.seed)
    found = work.run(pieces)
    return {
        size: {
            "budget": found[f"dimension/budget-{size}"],
            "replicates": [found[f"dimension/{size}-{i}"] for i in range(count)],
        }
        for size, count in work.mosaics.items()
    }


def retrained(work: Workshop) -> dict[str, Any]:
    """Losses of models of halves, scores, and losses of models without the most influential digits, without
    random ones of the query's class, and without random ones: each {query or number: [loss by seed]}."""
    o, seed, best = work.retraining, work.seed, work.samplers()["digits"]
    path = work.path("retraining.safetensors")
    whole = work.run({"retraining/all": partial(retraining.train_on_all, path, o.steps, seed)})
    model = whole["retraining/all"]["weights"]
    pieces: dict[str, Piece] = {
        f"retraining/half-{m}": partial(retraining.train_on_half, m, o.steps, seed) for m in range(o.halves)
    }
    for arm in TESTED:
        for k in o.draws:
            pieces[f"retraining/{arm}-{k}"] = partial(
                retraining.scores, path, model, best, arm, k, o.halves, o.removed, seed
            )
    found = work.run(pieces)
    top = found[f"retraining/best-{o.draws[-1]}"]["top"]
    removals = {
        "top": {q: top[q] for q in range(o.queries)},
        "class": {q: retraining.same_class(q, o.removed, seed) for q in range(o.queries)},
        "random": {i: retraining.anything(i, o.removed, seed) for i in range(o.queries)},
    }
    trained = work.run(
        {
            f"retraining/{kind}-{i}-{s}": partial(retraining.train_without, places, o.steps, seed + 1 + s)
            for s in range(o.seeds)
            for kind, sets in removals.items()
            for i, places in sets.items()
        }
    )
    return {
        "halves": [found[f"retraining/half-{m}"]["losses"] for m in range(o.halves)],
        "scores": {arm: {k: found[f"retraining/{arm}-{k}"] for k in o.draws} for arm in TESTED},
        "top": top,
        **{
            f"{kind}_removed": {
                i: [trained[f"retraining/{kind}-{i}-{s}"]["losses"] for s in range(o.seeds)] for i in sets
            }
            for kind, sets in removals.items()
        },
    }
