"""The configured sampler of noise levels and noises."""

from __future__ import annotations

import torch

from carv_distill.carv import AdaptiveProposal, NoiseLevelSampler, Proposal
from carv_distill.errors import UserError

from .options import EstimatorOptions


def build_sampler(options: EstimatorOptions, timesteps: int | None) -> NoiseLevelSampler:
    """The configured sampler; with discrete timesteps, a proposal has one bin for each.

    Raises:
        UserError: weights that are no density, or not one for each timestep; pairs of an odd number of draws.
    """
    if options.strategy == "paired" and options.draws % 2 and options.draws > 1:
        raise UserError(
            f"estimator.draws: {options.draws} is odd, and estimator.strategy: paired needs an even number"
        )
    if options.proposal == "weights":
        if timesteps and len(options.weights) != timesteps:
            raise UserError(
                f"estimator.weights: found {len(options.weights)}; the teacher has {timesteps} timesteps and "
                "needs one for each"
            )
        try:
            proposal = Proposal.from_weights(torch.tensor(options.weights), options.defensive)
        except ValueError as error:
            raise UserError(f"estimator.weights: {error}") from error
    else:
        proposal = Proposal.uniform(timesteps or 1000)
    return NoiseLevelSampler(proposal, options.strategy, options.noise)


def build_adaptive(options: EstimatorOptions) -> AdaptiveProposal | None:
    """What learns the proposal, where one is to be learned."""
    if options.proposal != "adaptive":
        return None
    if options.defensive == 0:
        raise UserError("estimator.defensive: an adaptive proposal needs a value above 0, found 0")
    if options.statistic == "neyman" and options.draws < 2:
        raise UserError(
            "estimator.statistic: neyman compares draws of one sample; estimator.draws must be at least 2, "
            f"found {options.draws}"
        )
    if options.statistic == "neyman" and options.chunk == 1:
        raise UserError(
            "estimator.chunk: neyman compares draws of one network call; chunk must be at least 2, found 1"
        )
    # A past update's residuals count half after 35 updates: the student moves on.
    return AdaptiveProposal(options.bins, options.defensive, options.statistic, 0.98, options.refresh)
