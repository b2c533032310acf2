"""The optimisers of student, fake score and discriminator, and their learning rates."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from torch.optim import AdamW, Optimizer

from carv_distill.command_line import missing
from carv_distill.engine.optimisation import NetworkParameters, ParameterVector, warm_cosine
from carv_distill.errors import UserError

from .options import DMDOptions

BLOCK = 256
"""Numbers of a moment that share a scale in 8 bits."""
LONGEST = 2**31 - BLOCK
"""Numbers of a tensor that bitsandbytes' kernels count: whole blocks, in 32 bits."""


def make_optimisers(options: DMDOptions, parameters: Sequence[NetworkParameters]) -> list[Optimizer]:
    """AdamW of the student, the fake score, and the discriminator where it has one of its own.

    Raises:
        UserError: moments are to be in 8 bits, and bitsandbytes is not installed.
    """
    o, gan = options, options.gan
    head = o.beta1 if gan.beta1 is None else gan.beta1, o.beta2 if gan.beta2 is None else gan.beta2
    betas = (o.beta1, o.beta2), (o.beta1, o.beta2), head
    make = _adamw if o.optimiser == "adamw" else _adamw_8bit
    return [
        make(theta, lr=rate, betas=pair, weight_decay=o.weight_decay)
        for theta, rate, pair in zip(parameters, _rates(o), betas, strict=False)
    ]


def _adamw(theta: NetworkParameters, **settings: Any) -> Optimizer:
    return AdamW(theta.tensors, fused=True, **settings)


def _adamw_8bit(theta: NetworkParameters, **settings: Any) -> Optimizer:
    """AdamW whose moments have 8 bits, with a scale in float32 for each :data:`BLOCK` numbers.

    Source: Dettmers et al. 2022, 8-bit optimizers via block-wise quantization.
    """
    assert isinstance(theta, ParameterVector), "8-bit moments are not sharded"
    theta.split(LONGEST)
    optimiser: Optimizer = adamw_8bit_class()(theta.tensors, min_8bit_size=0, **settings)
    return optimiser


def adamw_8bit_class() -> Callable[..., Any]:
    """That of bitsandbytes.

    Raises:
        UserError: it is not installed.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # says on a CPU what has no kernel for 4 bits
    try:
        from bitsandbytes.optim import AdamW8bit
    except ModuleNotFoundError as error:
        raise UserError(f"dmd.optimiser: adamw_8bit: {missing(error)}") from error
    kind: Callable[..., Any] = AdamW8bit
    return kind


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
