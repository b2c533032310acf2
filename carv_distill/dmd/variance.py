"""Variance of the student's gradient, total and with the upstream held fixed."""

from __future__ import annotations

import torch
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, PairedVariance
from carv_distill.parallel import average_over_ranks

from .module import DMDModule


def measure_variance(
    module: DMDModule, sampler: NoiseLevelSampler, draws: int, pairs: int, key: tuple[int | str, ...]
) -> PairedVariance:
    """Pairs of gradients at the module's R and `draws` re-noisings; a pair shares latents and labels.

    Args:
        sampler: the arm to measure.
        pairs: at least two.
        key: names the random streams, apart from those of training; the same key gives the same
            upstream samples to every arm.
    """
    variance = PairedVariance()
    for pair in range(pairs):
        gradients = []
        for half in range(2):
            upstream, _ = module.streams(*key, pair, "upstream")
            own, shared = module.streams(*key, pair, half, sampler.strategy, sampler.noise, draws)
            gradients.append(student_gradient(module, upstream, own, shared, sampler, draws))
        variance.update(*gradients)
    return variance


def student_gradient(
    module: DMDModule,
    upstream: torch.Generator,
    draws: torch.Generator,
    shared: torch.Generator,
    sampler: NoiseLevelSampler,
    count: int,
) -> Tensor:
    """One replicate of the gradient as a vector, averaged over ranks; `.grad` is untouched.

    Args as for :meth:`DMDModule.student_loss`.
    """
    with module.autocast():
        loss, _ = module.student_loss(upstream, draws, shared, sampler, count)
    gradients = torch.autograd.grad(loss, list(module.student.parameters()), allow_unused=True)
    gradient = torch.cat([g.flatten() for g in gradients if g is not None])
    average_over_ranks(gradient, module.world_size)
    return gradient
