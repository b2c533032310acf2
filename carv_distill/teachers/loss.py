"""The denoising loss that trains a teacher, and the fake score of DMD."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .denoiser import NetworkDenoiser


def denoising_loss(denoiser: NetworkDenoiser, x: Tensor, sigma: Tensor, eps: Tensor, cond: Tensor) -> Tensor:
    """mean (F − (x − c_skip x_t)/c_out)² = mean λ(σ) (D(x_t) − x)² with λ = 1/c_out².

    For the EDM preconditioning λ = (σ² + σ_d²)/(σ σ_d)², the EDM loss; for ε-prediction it is the DDPM
    loss ‖F − ε‖². Shapes: x, eps [n, …]; sigma, cond [n] → scalar.

    Source: Karras et al. 2022 (EDM), equation 8; Ho et al. 2020, equation 14.
    """
    return F.mse_loss(*_prediction_and_target(denoiser, x, sigma, eps, cond))


def denoising_losses(
    denoiser: NetworkDenoiser, x: Tensor, sigma: Tensor, eps: Tensor, cond: Tensor | None
) -> Tensor:
    """The same for each row apart, a mean over its entries: [n]."""
    prediction, target = _prediction_and_target(denoiser, x, sigma, eps, cond)
    return (prediction - target).square().flatten(1).mean(1)


def _prediction_and_target(
    denoiser: NetworkDenoiser, x: Tensor, sigma: Tensor, eps: Tensor, cond: Tensor | None
) -> tuple[Tensor, Tensor]:
    c = denoiser.coefficients(x, sigma)
    x_t = x + sigma.view(c.skip.shape) * eps
    return denoiser.raw(x_t, c, cond), (x - c.skip * x_t) / c.out
