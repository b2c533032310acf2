"""The sampler of draws that suits a model, from a few of its training samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from carv_distill.carv import (
    NOISES,
    NoiseLevelProfile,
    NoiseLevelSampler,
    NoiseParity,
    Pipeline,
    Proposal,
    stream,
)

from .draws import INDEPENDENT

AUTO = "auto"
PROPOSALS = ("uniform", "importance", "neyman")
PILOT_STRATEGIES = (AUTO, *INDEPENDENT)
PILOT_NOISES = (AUTO, *NOISES)


def pilot_sampler(
    pipeline: Pipeline,
    draws: int,
    seed: int,
    device: torch.device,
    strategy: str = AUTO,
    proposal: str = "importance",
    noise: str = AUTO,
    samples: int = 12,
    bins: int = 16,
    defensive: float = 0.1,
    progress: Callable[[str], None] | None = None,
) -> NoiseLevelSampler:
    """Measures what is left to it. The noises are coupled as the parity gate allows; levels are paired where
    that is antithetic, else stratified; the proposal is q ∝ √E‖g‖² (`importance`), or by the variance over ε
    of draws so coupled (`neyman`).

    Strata leave what levels differ by within each, most where gradients are large and change fast, so for a
    few dozen draws `importance` serves strata too; `neyman` is the limit of many.

    Its random streams are its own: the draws that are to be used are not known to it.

    Args:
        pipeline: see :func:`attribution_pipeline`.
        draws: of a sample, or of a group: as many as are coupled and stratified together.
        seed: names the streams.
        device: of the streams.
        strategy, noise: of :class:`NoiseLevelSampler`, or auto.
        proposal: uniform | importance | neyman.
        samples, bins: training samples and bins of u; either question takes up to
            8 · samples · min(draws, bins) draws.
        defensive: share of the prior in the proposal.

    Raises:
        ValueError: an unknown name.
    """
    for name, value, allowed in (
        ("strategy", strategy, PILOT_STRATEGIES),
        ("proposal", proposal, PROPOSALS),
        ("noise", noise, PILOT_NOISES),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}; found {value!r}")
    say = progress or (lambda message: None)
    even = draws > 1 and draws % 2 == 0
    if noise == AUTO and draws == 1:
        noise = "iid"
    elif noise == AUTO:
        say("pilot: parity of the noise")
        trial = strategy if strategy != AUTO else "paired" if even else "stratified"
        parity = NoiseParity.measure(
            pipeline,
            (),
            stream(seed, "attribution", "parity", device=device),
            upstreams=samples,
            draws=min(draws, bins) if even else draws,
            strategy=trial,
        )
        noise = parity.gate()
    if strategy == AUTO:
        strategy = "paired" if noise == "antithetic" and even else "stratified"
    if proposal == "uniform":
        return NoiseLevelSampler(Proposal.uniform(), strategy, noise)
    say("pilot: gradients over noise levels")
    profile = NoiseLevelProfile.measure(
        pipeline,
        (),
        stream(seed, "attribution", "profile", device=device),
        bins,
        samples,
        noise="antithetic" if noise == "antithetic" else "iid",
    )
    found = profile.importance if proposal == "importance" else profile.neyman
    return NoiseLevelSampler(found(defensive), strategy, noise)


def sampler_dict(sampler: NoiseLevelSampler) -> dict[str, Any]:
    """For JSON."""
    return {"strategy": sampler.strategy, "noise": sampler.noise, "mass": sampler.proposal.mass.tolist()}


def sampler_from_dict(content: dict[str, Any]) -> NoiseLevelSampler:
    """From :func:`sampler_dict`."""
    mass = torch.tensor(content["mass"], dtype=torch.float64)
    return NoiseLevelSampler(Proposal(mass), content["strategy"], content["noise"])
