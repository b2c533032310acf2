"""What an iteration does besides the student's gradient."""

from __future__ import annotations

from torch import Tensor

from carv_distill.engine.ema import ema_update
from carv_distill.variance import StageTimer

from .module import DMDModule


def time_other(module: DMDModule, timer: StageTimer, repeats: int = 10) -> None:
    """Times one iteration's fake-score updates, optimiser steps and EMA as the stage ``other``.

    The work is that of a training step, at learning rates of zero: no weight changes. Gradients of the
    parameters are used up.
    """
    student_optimizer, fake_optimizer = module.configure_optimizers()
    for optimizer in (student_optimizer, fake_optimizer):
        optimizer.param_groups[0].update(lr=0.0, weight_decay=0.0)
    module.student_vector.collect_gradient()
    ema = module.ema_vector.theta.clone()  # the run's own stays as it is
    made: dict[int, tuple[Tensor, Tensor]] = {}
    for number in range(repeats + 1):
        counted = timer if number else StageTimer(module.device)
        with counted.stage("other"):
            for i in range(module.options.fake_updates_per_student):
                for share in module.shares:
                    if i == 0 or not module.options.fake_reuse:
                        own, _ = module.streams(share, "cost", number, "samples", i)
                        made[share.index] = module.student_samples(own)
                    streams = module.streams(share, "cost", number, "fake", i)
                    real = made[share.index] if module.gan_head is not None else None  # as dear as real ones
                    module.fake_loss(share, *made[share.index], *streams, real).backward()
                module.fake_vector.collect_gradient()
                fake_optimizer.step()
            student_optimizer.step()
            ema_update([ema], [module.student_vector.theta], module.ema_decay(number))
