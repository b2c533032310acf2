"""Seconds of a pipeline's stages."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, average_residual, stream

from .cost import StageTimer
from .pipeline import Pipeline, flat_gradient


def time_stages(
    pipeline: Pipeline,
    parameters: Sequence[Tensor],
    sampler: NoiseLevelSampler,
    upstream: int,
    draws: int,
    timer: StageTimer,
    repeats: int = 10,
    chunk: int | None = None,
    seed: int = 0,
) -> None:
    """Times upstream, draw and backward at this R and K; a first round warms up and is thrown away.

    Seconds are per upstream sample and per draw, at the batch sizes that this R and K give.

    Args:
        timer: gets the seconds; time its stage ``other`` yourself where an iteration does more.
        repeats: rounds that count.
        chunk: see :func:`average_residual`.
    """
    device = parameters[0].device
    for number in range(repeats + 1):
        counted = timer if number else StageTimer(device)
        own = stream(seed, "stages", number, device=device)
        with counted.stage("upstream", upstream):
            x, residual = pipeline(upstream, own)
        with counted.stage("draw", upstream * draws):
            drawn = sampler.draw(upstream, draws, x.shape[1:], own, dtype=x.dtype)
            direction = average_residual(residual, x, drawn, chunk)
        with counted.stage("backward", upstream):
            flat_gradient(x, direction / upstream, parameters, keep=False)
