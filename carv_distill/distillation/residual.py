"""The residual of distribution matching distillation, per draw."""

from __future__ import annotations

from torch import Tensor

from carv_distill.teachers.denoiser import Denoiser, denoised_difference


def dmd_residual(
    fake: Denoiser, teacher: Denoiser, x: Tensor, sigma: Tensor, eps: Tensor, cond: Tensor | None
) -> Tensor:
    """r = (D_fake(x_t) − D_teacher(x_t)) / (mean|x − D_teacher(x_t)| + 10⁻⁶), x_t = x + σ ε.

    Both denoisers see the same x_t. Each draw is normalised by its own divisor before any average over
    draws is taken: a divisor pooled over draws would be another objective.

    Args:
        x: generated samples, [n, …].
        sigma: noise levels, [n].
        eps: noises, [n, …].
        cond: labels, [n], or None.

    Source: Yin et al. 2024 (DMD), equations 7 and 8; Yin et al. 2024 (DMD2), section 3.
    """
    x_t = x + sigma.view(-1, *[1] * (x.ndim - 1)) * eps
    difference, denoised = denoised_difference(fake, teacher, x_t, sigma, cond)
    divisor = (x - denoised).abs().flatten(1).mean(1) + 1e-6
    return difference / divisor.view(-1, *[1] * (x.ndim - 1))
