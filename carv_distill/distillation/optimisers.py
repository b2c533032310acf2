"""The optimisers of student, fake score and discriminator, and their learning rates."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch.core.optimizer import LightningOptimizer
from torch.optim import AdamW, Optimizer

from carv_distill.engine.optimisation import NetworkParameters, warm_cosine

from .options import DMDOptions


def make_optimisers(options: DMDOptions, parameters: Sequence[NetworkParameters]) -> list[Optimizer]:
    """AdamW of the student, the fake score, and the discriminator where it has one of its own."""
    o, gan = options, options.gan
    head = o.beta1 if gan.beta1 is None else gan.beta1, o.beta2 if gan.beta2 is None else gan.beta2
    betas = (o.beta1, o.beta2), (o.beta1, o.beta2), head
    return [
        AdamW(theta.tensors, rate, pair, weight_decay=o.weight_decay, fused=True)
        for theta, rate, pair in zip(parameters, _rates(o), betas, strict=False)
    ]


def set_learning_rates(
    options: DMDOptions, optimisers: Sequence[Optimizer | LightningOptimizer], step: int, length: int
) -> None:
    """Those of an update of a run of so many: warm-up of all, and the decay of those that are to decay."""
    if options.lr_decay == "none" and not options.warmup:
        return
    for i, (optimiser, rate) in enumerate(zip(optimisers, _rates(options), strict=False)):
        falls = options.lr_decay == "both" or (options.lr_decay == "student" and i == 0)
        optimiser.param_groups[0]["lr"] = rate * warm_cosine(step, options.warmup, length if falls else None)


def _rates(options: DMDOptions) -> tuple[float, float, float]:
    """Learning rates at full height."""
    return options.student_lr, options.fake_lr, options.gan.lr or options.fake_lr
