"""A linear denoiser, whose gradients and their moments are known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from carv_distill.attribution.gradients.loss import SampleLoss
from carv_distill.attribution.gradients.sample_gradients import SampleGradients
from carv_distill.attribution.gradients.vmapped import VmapGradients
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.parametrisation import Coefficients
from carv_distill.teachers.schedule import EDMSchedule


class Plain:
    """D = F(x_t)."""

    def __call__(self, sigma: Tensor) -> Coefficients:
        one = torch.ones_like(sigma)
        return Coefficients(one, sigma, 0 * one, one, 1 / sigma, -1 / sigma, one)


class Linear(nn.Module):
    """F(x) = W x for x [n, D]."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None) -> Tensor:
        return x @ self.weight.T


SCHEDULE = EDMSchedule(0.1, 3.0, 1.0)
"""σ(u) = 0.1 + 2.9 u."""


def linear_gradients(dim: int = 3) -> VmapGradients:
    weight = torch.linspace(-0.5, 0.8, dim * dim, dtype=torch.float64).view(dim, dim)
    return VmapGradients(SampleLoss(NetworkDenoiser(Linear(weight), Plain()), SCHEDULE))


def mean_gradient(gradients: SampleGradients, x: Tensor) -> Tensor:
    """E_u,ε ∇W ‖W (x + σ ε) − x‖²/D = 2/D ((W − I) x xᵀ + E σ² W), [n, D²]."""
    weight = next(iter(gradients.loss.chosen.values())).detach()
    dim = len(weight)
    low, high = SCHEDULE.sigma_min, SCHEDULE.sigma_max
    square = (high**3 - low**3) / (3 * (high - low))
    outer = torch.einsum("ij,nj,nk->nik", weight - torch.eye(dim, dtype=x.dtype), x, x)
    return (2 / dim * (outer + square * weight)).flatten(1)
