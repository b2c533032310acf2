"""Variance of the student's gradient, total and with the upstream held fixed."""

from __future__ import annotations

from carv_distill.carv import NoiseLevelSampler, PairedVariance

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
            gradients.append(module.student_gradient(upstream, own, shared, sampler, draws))
        variance.update(*gradients)
    return variance
