"""The samplers that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from carv_distill.attribution.draws import fixed_grid
from carv_distill.attribution.pilot import sampler_dict, sampler_from_dict
from carv_distill.carv import Draws, NoiseLevelSampler, Proposal, stream
from carv_distill.variance import NoiseLevelProfile, VarianceBudget
from studies.attribution_budget.models import pipeline_of

ARMS = ("iid", "fixed grid", "systematic", "Strat", "IW", "IW+Strat", "best")
"""fixed grid: midpoints, as D-TRAK takes them. best: antithetic pairs at one level in each of K/2 strata, by
importance."""
BUDGETS = (1, 2, 4, 8, 16, 32, 64)


def pilot(model: str, seed: int, samples: int, bins: int) -> dict[str, Any]:
    """The sampler `best` of a model; its proposal q ∝ √E‖g‖² is that of all arms by importance, from
    4 · samples · bins draws of streams that are not those of any measurement."""
    profile = NoiseLevelProfile.measure(
        pipeline_of(model),
        (),
        stream(seed + 7919, "attribution", "profile"),
        bins,
        samples,
        noise="antithetic",
    )
    return sampler_dict(NoiseLevelSampler(profile.importance(), "paired", "antithetic"))


def draws_of(arm: str, best: dict[str, Any], count: int, shape: Sequence[int], *key: int | str) -> Draws:
    """K draws of an arm, u and weight [1, K], from the stream of that key."""
    if arm == "fixed grid":
        return fixed_grid(count, 1, shape, seed_of(*key))
    chosen = sampler_from_dict(best)
    uniform, importance = Proposal.uniform(), chosen.proposal
    sampler = {
        "iid": NoiseLevelSampler(uniform, "iid"),
        "systematic": NoiseLevelSampler(uniform, "systematic"),
        "Strat": NoiseLevelSampler(uniform, "stratified"),
        "IW": NoiseLevelSampler(importance, "iid"),
        "IW+Strat": NoiseLevelSampler(importance, "stratified"),
        "best": chosen,
    }[arm]
    return sampler.draw(1, count, shape, stream("arm", arm, count, *key))


def seed_of(*key: int | str) -> int:
    """A seed from a key."""
    return int(torch.randint(2**31, (), generator=stream("grid", *key)))


def levels(model: str, seed: int, samples: int, bins: int) -> dict[str, Any]:
    """A single draw's budget of variance, and its gradient's norm over noise levels."""
    budget = VarianceBudget.measure(
        pipeline_of(model), (), stream(seed, "levels", "budget"), upstreams=samples, levels=4, noises=2
    )
    profile = NoiseLevelProfile.measure(
        pipeline_of(model), (), stream(seed, "levels", "profile"), bins, samples
    )
    parts = {
        name: [e.value, e.low, e.high]
        for name in ("between", "within_level", "within_noise", "within")
        for e in [getattr(budget, name)]
    }
    return {
        **parts,
        "second_moment": profile.second_moment.tolist(),
        "second_moment_se": profile.second_moment_se.tolist(),
        "noise_variance": profile.noise_variance.tolist(),
    }
