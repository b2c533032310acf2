"""Variance of a sample's gradient over its draws, for every sampler and budget."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from carv_distill.carv import stream
from carv_distill.variance import Estimate, mean_estimate, paired_ratio
from studies.attribution_budget.arms import ARMS, BUDGETS, draws_of
from studies.attribution_budget.models import gradients_of, subject_of

REFERENCE = 64
"""Draws of each of the two means that a grid's bias is measured against."""


def replicate(model: str, best: dict[str, Any], number: int, seed: int, count: int) -> dict[str, Any]:
    """One term of every arm's variance at every K: mean over `count` samples of ‖ḡ − ḡ'‖²/2, ḡ and ḡ' from
    two independent sets of K draws; all arms see the same samples.

    For the fixed grid, whose error is not all variance, also ⟨ḡ − r, ḡ' − r'⟩ with r, r' independent
    means of `best`: its expectation is the squared bias.
    """
    subject, gradients = subject_of(model), gradients_of(model)
    g = stream(seed, "variance", model, number)
    samples = subject.training.at(torch.randint(len(subject.training), (count,), generator=g).tolist())
    shape = samples.x.shape[1:]

    def means(arm: str, k: int, half: int) -> torch.Tensor:
        draws = draws_of(arm, best, k, shape, seed, "variance", model, number, half)
        parts = []
        for start in range(0, count, max(1, 128 // k)):
            part = slice(start, start + max(1, 128 // k))
            cond = None if samples.cond is None else samples.cond[part]
            parts.append(gradients(samples.x[part], cond, draws.u[0], draws.weight[0], draws.eps[0]))
        return torch.cat(parts)

    found: dict[str, Any] = {}
    reference = [means("best", REFERENCE, half) for half in (2, 3)]
    for arm in ARMS:
        for k in BUDGETS:
            pair = [means(arm, k, half) for half in (0, 1)]
            found[f"{arm} {k}"] = (pair[0] - pair[1]).double().square().sum(1).mean().item() / 2
            if arm == "fixed grid":
                errors = [(p - r).double() for p, r in zip(pair, reference, strict=True)]
                found[f"bias {k}"] = (errors[0] * errors[1]).sum(1).mean().item()
    return found


def variances(replicates: list[dict[str, Any]]) -> dict[tuple[str, int], Estimate]:
    """Of every arm and K; of the fixed grid the mean squared error.

    K times the variance of iid draws is one number for all K, so it is estimated from all of them.
    """
    found = {}
    for arm in ARMS:
        for k in BUDGETS:
            terms = [r[f"{arm} {k}"] + (r[f"bias {k}"] if arm == "fixed grid" else 0.0) for r in replicates]
            if arm == "iid":
                terms = [statistics.fmean(j * r[f"iid {j}"] for j in BUDGETS) / k for r in replicates]
            found[arm, k] = mean_estimate(terms, positive=True)
    return found


def ecm_over_iid(found: dict[tuple[str, int], Estimate]) -> dict[tuple[str, int], Estimate]:
    """Var_iid/Var_arm at equal K: the ratio of draws, as a draw costs the same for all."""
    return {(arm, k): paired_ratio(found["iid", k], e) for (arm, k), e in found.items() if arm != "iid"}
