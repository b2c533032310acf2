"""A pipeline whose variance components are known: x = θ + S ξ, r = x + b h(u) + c ε."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from carv_distill.carv.estimator import Residual
from carv_distill.variance import Estimate, Pipeline


@dataclass(frozen=True)
class LinearGaussian:
    """g = θ + S ξ + b h(u) + c ε with h(u) = √2 sin 2πu: E g = θ."""

    between: float = 3.0
    level: float = 2.0
    noise: float = 5.0
    dim: int = 6

    def parameters(self) -> Tensor:
        return torch.linspace(-1, 1, self.dim, dtype=torch.float64).requires_grad_()

    def pipeline(self, theta: Tensor) -> Pipeline:
        def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
            h = math.sqrt(2) * torch.sin(2 * math.pi * u)
            return x + h[:, None] * math.sqrt(self.level / self.dim) + math.sqrt(self.noise / self.dim) * eps

        def pipeline(count: int, generator: torch.Generator) -> tuple[Tensor, Residual]:
            xi = torch.randn(count, self.dim, generator=generator, dtype=torch.float64)
            return theta + math.sqrt(self.between / self.dim) * xi, residual

        return pipeline


def holds(estimate: Estimate, truth: float) -> bool:
    """Whether the interval covers the truth."""
    return estimate.low <= truth <= estimate.high
