"""The sampler of draws that suits a model, tried on a few of its training samples."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch

from carv_distill.attribution.options import AUTO, INDEPENDENT, PROPOSALS
from carv_distill.carv import NOISES, STRATEGIES, NoiseLevelSampler, Proposal, stream
from carv_distill.variance import NoiseLevelProfile, Pipeline, measure_pairs

FEW = 8
"""Draws up to which one shift for all strata is tried beside a shift each. With more, strata are so narrow
that it matters little where in one a draw lies, and a shift each has up to K times less variance where the
mean over ε falls or rises all the way."""


def pilot_sampler(
    pipeline: Pipeline,
    draws: int,
    seed: int,
    device: torch.device,
    strategy: str = AUTO,
    proposal: str = AUTO,
    noise: str = AUTO,
    samples: int = 12,
    bins: int = 16,
    defensive: float = 0.1,
    progress: Callable[[str], None] | None = None,
) -> NoiseLevelSampler:
    """Of the samplers that are left to it, the one whose mean over K draws had the least variance, at
    `samples` training samples with two independent sets of draws each.

    Left to it, levels are stratified, systematic (K ≤ 8) or paired (with antithetic noises, K even), the
    proposal uniform or q ∝ √E‖g‖² (`importance`), noises iid or antithetic. Which is best depends on K, on
    how much of the variance is the level's, on whether the mean over ε has a peak over the levels, and on
    the parity in ε of what is the noise's.

    Its random streams are its own: the draws that are to be used are not known to it.

    Args:
        pipeline: see :func:`attribution_pipeline`.
        draws: K of a sample, or of a group: as many as are coupled and stratified together.
        seed: names the streams.
        device: of the streams.
        strategy, noise: of :class:`NoiseLevelSampler`, or auto.
        proposal: uniform | importance | neyman (by the variance over ε alone, the limit of many strata) |
            auto.
        samples, bins: training samples and bins of u. Cost: 2 · samples · bins draws for a proposal, and
            2 · samples · K for every sampler that is tried: up to ten, six where K > 8.
        defensive: share of the prior in the proposal.

    Raises:
        ValueError: an unknown name.
    """
    for name, value, allowed in (
        ("strategy", strategy, (AUTO, *INDEPENDENT)),
        ("proposal", proposal, (AUTO, *PROPOSALS)),
        ("noise", noise, (AUTO, *NOISES)),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}; found {value!r}")
    say = progress or (lambda message: None)
    proposals = {"uniform": Proposal.uniform()}
    if proposal != "uniform":
        say("pilot: gradients over noise levels")
        profile = NoiseLevelProfile.measure(
            pipeline, (), stream(seed, "attribution", "profile", device=device), bins, samples
        )
        make = profile.neyman if proposal == "neyman" else profile.importance
        name = "neyman" if proposal == "neyman" else "importance"
        proposals = {**(proposals if proposal == AUTO else {}), name: make(defensive)}
    tried = {
        (s, p, n): NoiseLevelSampler(q, s, n)
        for (p, q), (s, n) in product(proposals.items(), _plans(strategy, noise, draws))
    }
    if len(tried) == 1:
        return next(iter(tried.values()))
    variances = {}
    for plan, sampler in tried.items():
        measured = measure_pairs(pipeline, (), sampler, 1, draws, samples, seed, device=device)
        variances[plan] = measured.within().value
    best = min(variances, key=lambda plan: variances[plan])
    strategy, proposal, noise = best
    share = variances[best] / max(variances.values())
    say(
        f"pilot: tried {len(tried)} ways to draw noise levels and noises; the least variance, {share:.2f} of "
        f"the largest, is that of {strategy} levels from the {proposal} proposal with {noise} noises"
    )
    return tried[best]


def _plans(strategy: str, noise: str, draws: int) -> list[tuple[str, str]]:
    """(strategy, noise) that are to be tried; pairs only of opposite noises."""
    even = draws > 1 and draws % 2 == 0
    shifted = ["systematic"] if 1 < draws <= FEW else []
    strategies = [strategy] if strategy != AUTO else ["stratified", *shifted, *(["paired"] if even else [])]
    noises = [noise] if noise != AUTO else ["iid", *(["antithetic"] if draws > 1 else [])]
    plans = list(product(strategies, noises))
    sensible = [(s, n) for s, n in plans if not STRATEGIES[s].even_draws or NOISES[n].even_draws]
    return sensible or plans


def sampler_dict(sampler: NoiseLevelSampler) -> dict[str, Any]:
    """For JSON."""
    return {"strategy": sampler.strategy, "noise": sampler.noise, "mass": sampler.proposal.mass.tolist()}


def sampler_from_dict(content: dict[str, Any]) -> NoiseLevelSampler:
    """From :func:`sampler_dict`."""
    mass = torch.tensor(content["mass"], dtype=torch.float64)
    return NoiseLevelSampler(Proposal(mass), content["strategy"], content["noise"])
