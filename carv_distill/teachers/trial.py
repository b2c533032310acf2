"""One trial call of a network, before anything is made or trained with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from carv_distill.errors import UserError, one_line

from .condition import Cond
from .denoiser import NetworkDenoiser
from .folder import FOREIGN
from .schedule import NoiseSchedule


@contextmanager
def building(what: str) -> Iterator[None]:
    """A block in which a network is built.

    Raises:
        UserError: sizes of which there is none, or no memory for it.
    """
    try:
        yield
    except FOREIGN as error:
        raise UserError(f"{what} make no network: {one_line(error)}") from error


def try_call(call: Callable[[], Tensor], shape: Sequence[int], source: str) -> Tensor:
    """The result of a call under no_grad.

    Args:
        shape: that it must have.
        source: begins the message, and says what is called.

    Raises:
        UserError: it fails, or gives another shape, NaN or infinity.
    """
    try:
        with torch.no_grad():
            result = call()
    except FOREIGN as error:
        raise UserError(f"{source} cannot be computed: {type(error).__name__}: {one_line(error)}") from error
    if tuple(result.shape) != tuple(shape):
        raise UserError(f"{source} gives the shape {list(result.shape)}, not {list(shape)}")
    if not result.isfinite().all():
        raise UserError(f"{source} gives NaN or infinity")
    return result


def try_denoiser(
    denoiser: NetworkDenoiser, schedule: NoiseSchedule, shape: Sequence[int], cond: Cond, source: str
) -> None:
    """F of one row of noise at the least and the greatest level of a schedule.

    Args:
        shape: of one row.
        cond: of one row: a label [1], a prompt's condition, or None.

    Raises:
        UserError: see :func:`try_call`.
    """
    like = next(denoiser.parameters())
    # no random numbers: a run's must not depend on how often its teacher was tried
    noise = torch.linspace(-2, 2, math.prod(shape), device=like.device).view(1, *shape).sin()
    for level in (schedule.sigma_min, schedule.sigma_max):
        c = denoiser.coefficients(noise, noise.new_full((1,), level))
        what = f"{source}: its network at σ = {level:.3g}"
        try_call(partial(denoiser.raw, noise, c, cond), noise.shape, what)
