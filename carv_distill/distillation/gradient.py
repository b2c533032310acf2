"""Variance of the student's gradient, total and with the upstream held fixed."""

from __future__ import annotations

import torch
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler
from carv_distill.processes import average_over_ranks
from carv_distill.variance import PairedVariance

from .module import DMDModule


def measure_variance(
    module: DMDModule, sampler: NoiseLevelSampler, draws: int, pairs: int, key: tuple[int | str, ...]
) -> PairedVariance:
    """Pairs of gradients of whole updates at `draws` re-noisings; a pair shares latents and labels.

    Args:
        sampler: the arm to measure.
        pairs: at least two.
        key: names the random streams, apart from those of training; the same key gives the same
            upstream samples to every arm.
    """
    variance = PairedVariance()
    for pair in range(pairs):
        names = [(half, sampler.strategy, sampler.noise, draws) for half in range(2)]
        variance.update(*(student_gradient(module, sampler, draws, (*key, pair), own) for own in names))
    return variance


def student_gradient(
    module: DMDModule,
    sampler: NoiseLevelSampler,
    count: int,
    key: tuple[int | str, ...],
    own_key: tuple[int | str, ...],
) -> Tensor:
    """One replicate of an update's gradient as a vector, over all shares; `.grad` is untouched.

    Args:
        count: K.
        key: names the stream of the upstream samples.
        own_key: added to it, names those of the draws.
    """
    parameters = list(module.student.parameters())
    gradient: Tensor | None = None
    for share in module.shares:
        upstream, _ = module.streams(share, *key, "upstream")
        own, shared = module.streams(share, *key, *own_key)
        with module.autocast():
            loss, _ = module.student_loss(share, upstream, own, shared, sampler, count)
        parts = torch.autograd.grad(loss / module.accumulate, parameters, allow_unused=True)
        flat = torch.cat([g.flatten() for g in parts if g is not None])
        gradient = flat if gradient is None else gradient.add_(flat)
    assert gradient is not None
    average_over_ranks(gradient, module.world_size)
    return gradient
