"""The student's gradient as it is measured: by the trace, by evaluate.py, for advice and costs."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler
from carv_distill.engine.optimisation import time_at_rest
from carv_distill.engine.sharding import mean_gradient, sum_over_parts
from carv_distill.processes import Share
from carv_distill.variance import (
    MeasuredGradient,
    PairedVariance,
    StageTimer,
    estimate_loss,
    paired_variance,
)

from .module import DMDModule
from .objective import ALONE, Samples


def measure_variance(
    module: DMDModule, sampler: NoiseLevelSampler, draws: int, pairs: int, key: tuple[int | str, ...]
) -> PairedVariance:
    """Pairs of gradients of whole updates at `draws` re-noisings; a pair shares its upstream samples. `key`
    names the random streams: the same key gives the same upstream samples to every sampler."""

    def estimate(pair: int, half: int) -> Tensor:
        own = (half, sampler.strategy, sampler.noise, draws)
        return update_gradient(module, sampler, draws, (*key, pair), own)

    return paired_variance(estimate, pairs, sum_over_parts(module.objective.student_parameters))


def update_gradient(
    module: DMDModule,
    sampler: NoiseLevelSampler,
    draws: int,
    key: tuple[int | str, ...],
    own_key: tuple[int | str, ...],
) -> Tensor:
    """One replicate of an update's gradient at K draws, over all shares, [d], or this process's part of it
    where the student is sharded; `.grad` is untouched.

    Args:
        key: names the streams of the upstream samples and of what is added beside the residual.
        own_key: added to it, names those of the draws.
    """

    def loss(share: Share) -> Tensor:
        upstream, dealt = module.streams(share.index, *key, "upstream")
        own, shared = module.streams(share.index, *key, *own_key)
        g, chunk = gradient_of(module, share, dealt), module.estimator.chunk
        of_share = partial(estimate_loss, rank=share.index, world_size=share.count, shared=shared)
        return of_share(g.sample, sampler, g.upstream, draws, upstream, own, chunk)

    shares, parameters = module.shares, module.objective.student_parameters
    return mean_gradient(map(loss, shares), len(shares), parameters, module.world_size)


def gradient_of(
    module: DMDModule, share: Share = ALONE, shared: torch.Generator | None = None, step: int = 0
) -> MeasuredGradient:
    """The gradient that a module descends, of the whole batch or of one share of it, by the sampler as
    configured, without what was learned."""
    e = module.estimator
    return MeasuredGradient(
        pipeline=module.objective.pipeline(share, shared),
        parameters=list(module.objective.student_parameters),
        sampler=e.sampler,
        upstream=e.upstream,
        draws=e.draws,
        seed=module.seed,
        device=module.device,
        chunk=e.chunk,
        step=step,
        context=module.autocast,
        time_other=partial(time_other, module),
        shares=len(module.shares),
    )


def time_other(module: DMDModule, timer: StageTimer) -> None:
    """Times what an update does besides its gradient: the fake score's updates, the optimiser, the averages,
    which are put back. Gradients are used up."""
    student, *fakes = optimizers = module.configure_optimizers()
    average, batch = [t.clone() for t in module.ema_vector.local], _stand_in_images(module)
    beside = module.averages.clone() if module.options.ema_beside else None

    def update(number: int) -> None:
        module.fake_updates(fakes, f"cost {number}", batch)
        module.apply_student(student, number)

    time_at_rest(timer, module.device, optimizers, update)
    module.averaging.finish()
    with torch.no_grad():
        torch._foreach_copy_(module.ema_vector.local, average)
        if beside is not None:
            module.averages.copy_(beside)


def _stand_in_images(module: DMDModule) -> Samples | None:
    """As many images as the loader gives for an update, and as dear; None without a discriminator."""
    if module.objective.discriminator is None:
        return None
    o = module.options
    count = len(module.shares) * (1 if o.fake_reuse else o.fake_updates_per_student) * o.fake_batch
    images = module.objective.student_parameters[0].new_zeros(count, *module.real_shape)
    return images, torch.zeros(count, dtype=torch.long, device=module.device)
