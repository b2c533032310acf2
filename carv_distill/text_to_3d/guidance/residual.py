"""What a draw says about a picture: the residual w(t) (ε̂ − c ε), and the norm of its average."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from carv_distill.carv import NoiseCoefficient, Residual, StepStatistics
from carv_distill.teachers.condition import Condition
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.precision import without_autocast

from .timesteps import TimestepRange, timestep_weight


def sds_residual(
    denoiser: NetworkDenoiser,
    x: Tensor,
    sigma: Tensor,
    eps: Tensor,
    cond: Condition,
    weighting: str = "sds",
    coefficient: Tensor | float = 1.0,
) -> tuple[Tensor, Tensor]:
    """(w(t) (ε̂ − c ε), ε̂) with ε̂ = (x_t − D(x_t, σ, cond))/σ, x_t = x + σ ε.

    Any c, one or [n], that does not depend on this ε leaves the mean as it is: E[ε | x, t] = 0. Shapes: x,
    eps [n, C, s, s]; sigma [n]; cond of n rows.

    Source: DreamFusion (arXiv 2209.14988), equation 3, c = 1.
    """
    shape = (-1, *[1] * (x.ndim - 1))
    predicted = denoiser.predict_noise(x, sigma, eps, cond)
    if isinstance(coefficient, Tensor):
        coefficient = coefficient.view(shape)
    return timestep_weight(sigma, weighting).view(shape) * (predicted - coefficient * eps), predicted


def guided_residual(
    denoiser: NetworkDenoiser,
    levels: TimestepRange,
    weighting: str,
    cond: Condition,
    step: int,
    coefficient: NoiseCoefficient | None = None,
    statistics: StepStatistics | None = None,
    constant: float = 1.0,
) -> Residual:
    """The SDS residual at the noise levels of one step.

    Args:
        denoiser: guided, frozen.
        cond: of each upstream sample, R rows.
        coefficient: c as past draws taught it; None is a constant c.
        statistics: holds back what draws teach c until the step is done; None teaches nothing.
        constant: c where none is learned, 1 for SDS.
    """

    def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
        c: Tensor | float = constant
        if coefficient is not None:
            c = coefficient.at(step, levels.place(u)).to(x.dtype)
        with own_precision(denoiser, x):
            r, predicted = sds_residual(denoiser, x, levels.sigma(u), eps, cond[index], weighting, c)
        if coefficient is not None and statistics is not None:
            statistics.record(coefficient, coefficient.rows(levels.place(u), predicted, eps))
        return r

    return residual


def own_precision(network: nn.Module, x: Tensor) -> contextlib.AbstractContextManager[None]:
    """A block in which weights of half precision are computed in that, whatever autocast says outside."""
    if not torch.is_autocast_enabled(x.device.type):  # to go through all weights takes milliseconds
        return contextlib.nullcontext()
    half = any(p.dtype in (torch.float16, torch.bfloat16) for p in network.parameters())
    return without_autocast(x) if half else contextlib.nullcontext()


def clip_norm(direction: Tensor, greatest: float) -> Tensor:
    """Each picture's averaged direction, shortened to this norm: [R, …].

    Biased where it fires, as E clip(g) is not clip(E g); on the average less so than on its draws, and the
    less the more draws there are.
    """
    norm = direction.flatten(1).norm(dim=1).clamp(min=1e-12)
    return direction * (greatest / norm).clamp(max=1).view(-1, *[1] * (direction.ndim - 1))
