"""An exact network: ε-prediction of Gaussian data, a distribution for each label."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from carv_distill.teachers.condition import Condition
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.parametrisation import EpsPreconditioning
from carv_distill.teachers.schedule import VPSchedule

F64 = torch.float64
SCHEDULE = VPSchedule(DDPMScheduler(100, 0.00085, 0.012, "scaled_linear").betas)
DIM = 6
OWN, NONE, NEGATIVE, FAKE = 0, 1, 2, 3
MEANS = torch.stack(
    [
        torch.linspace(-1, 1, DIM, dtype=F64) * factor + shift
        for factor, shift in ((1, 0.3), (0.5, 0.0), (-0.7, -0.2), (0.8, 0.5))
    ]
)
VARIANCES = torch.stack(
    [
        torch.linspace(low, high, DIM, dtype=F64)
        for low, high in ((0.1, 0.4), (0.6, 1.5), (0.3, 0.9), (0.2, 0.7))
    ]
)


class GaussianNetwork(nn.Module):
    """F(y, t, label) = σ (x_t − μ)/(s² + σ²) at y = x_t/√(1 + σ²), for data N(μ, diag s²) of the label."""

    def forward(self, y: Tensor, c_noise: Tensor, label: Tensor) -> Tensor:
        sigma = SCHEDULE.table[c_noise.round().long()][:, None]
        x_t = y * (1 + sigma.square()).sqrt()
        return sigma * (x_t - MEANS[label]) / (VARIANCES[label] + sigma.square())


class FakeNetwork(GaussianNetwork):
    """The same for data of one distribution, whatever the label."""

    def forward(self, y: Tensor, c_noise: Tensor, label: Tensor) -> Tensor:
        return super().forward(y, c_noise, torch.full_like(label, FAKE))


class PromptedNetwork(nn.Module):
    """The same of prompts, whose embedding [1, 2 DIM] is (μ, s²) itself, so that any mean of two has its own
    exact prediction."""

    def forward(self, y: Tensor, c_noise: Tensor, cond: Condition) -> Tensor:
        mean, variance = cond.embeddings[:, 0].chunk(2, 1)
        sigma = SCHEDULE.table[c_noise.round().long()][:, None]
        return sigma * (y * (1 + sigma.square()).sqrt() - mean) / (variance + sigma.square())


def gaussian_teacher(network: nn.Module | None = None) -> NetworkDenoiser:
    return NetworkDenoiser(network or GaussianNetwork(), EpsPreconditioning(SCHEDULE))


def mean_prediction(x: Tensor, sigma: Tensor, label: int) -> Tensor:
    """E_ε ε̂(x + σ ε) = σ (x − μ)/(s² + σ²); sigma of a shape that goes with x."""
    return sigma * (x - MEANS[label]) / (VARIANCES[label] + sigma.square())
