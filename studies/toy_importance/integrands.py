"""One-dimensional integrands whose estimators have variances known by quadrature.

A draw is g(u, ε) = f(u) (1 + s ε) with ε ~ N(0, 1), a weight 1/q(u), and what is estimated is I = ∫ f du:
the noise level u and the noise ε of a diffusion teacher, in one dimension each. As E[g²|u] = (1 + s²) f²,
the variance-minimising iid proposal is q* ∝ √E[g²|u] ∝ |f|, and with f ≥ 0 its variance is s² I².
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, Proposal
from carv_distill.variance import Estimate, VarianceMeter, scaled

F64 = torch.float64
_NODES = 8
_ROUNDING = 1e-15


@dataclass(frozen=True)
class Integrand:
    """f on [0, 1) with its antiderivative, and the relative noise s of a draw g = f(u) (1 + s ε)."""

    name: str
    f: Callable[[Tensor], Tensor]
    antiderivative: Callable[[Tensor], Tensor]
    noise: float = 0.0

    @property
    def integral(self) -> float:
        """I = ∫ f du."""
        ends = self.antiderivative(torch.tensor([0.0, 1.0], dtype=F64))
        return (ends[1] - ends[0]).item()

    def draw(self, u: Tensor, eps: Tensor) -> Tensor:
        """g(u, ε), the shape of u."""
        return self.f(u) * (1 + self.noise * eps) if self.noise else self.f(u)


@dataclass(frozen=True)
class Measured:
    """What independent replicates of an estimator say."""

    variance: Estimate
    """Of the mean over one set of draws."""
    z: float
    """(mean of the replicates − I) in standard errors: about standard normal for an unbiased estimator."""
    replicates: int


def peak(centre: float, width: float, height: float, noise: float) -> Integrand:
    """f(u) = 1 + h exp(−(u − c)²/(2w²)): a peak on a flat background."""

    def f(u: Tensor) -> Tensor:
        return 1 + height * torch.exp(-0.5 * ((u - centre) / width) ** 2)

    def antiderivative(u: Tensor) -> Tensor:
        area = height * width * math.sqrt(math.pi / 2)
        return u + area * torch.erf((u - centre) / (width * math.sqrt(2)))

    return Integrand("peak", f, antiderivative, noise)


EXPONENTIAL = Integrand("exp(u)", torch.exp, torch.exp)
"""Smooth, with f(0) ≠ f(1)."""


PERIODIC = Integrand(
    "cos 2πu + ½ sin 4πu",
    lambda u: torch.cos(2 * math.pi * u) + 0.5 * torch.sin(4 * math.pi * u),
    lambda u: (torch.sin(2 * math.pi * u) - 0.25 * torch.cos(4 * math.pi * u)) / (2 * math.pi),
)
"""Smooth, with period 1."""


def cosine(frequency: int) -> Integrand:
    """f(u) = cos(2π m u)."""
    w = 2 * math.pi * frequency
    return Integrand(f"cos 2π{frequency}u", lambda u: torch.cos(w * u), lambda u: torch.sin(w * u) / w)


def exact_variance(integrand: Integrand, proposal: Proposal, strategy: str, draws: int) -> float:
    """Variance of the mean of K weighted draws; g and q known, so nothing is drawn.

    iid                  (∫ E[g²|u]/q du − I²)/K
    stratified, global   ∫ E[g²|u]/q du / K − Σ_k (∫_{stratum k} f du)²
    systematic, sobol    Var_U[1/K Σ_k f((k + U)/K)] + ∫ Var[g|u] du / K, for uniform q; K = 2^m points of a
                         digitally shifted Sobol sequence in one dimension are such a shifted grid

    Raises:
        ValueError: systematic or sobol under a proposal that is not uniform.
    """
    u, du = _grid(proposal.bins)
    second = ((1 + integrand.noise**2) * integrand.f(u).square() * proposal.weight(u) * du).sum().item()
    if strategy == "iid":
        return (second - integrand.integral**2) / draws
    if strategy in ("stratified", "global"):
        edges = proposal.icdf(torch.linspace(0, 1, draws + 1, dtype=F64))
        edges[0], edges[-1] = 0, 1
        return second / draws - integrand.antiderivative(edges).diff().square().sum().item()
    if not torch.allclose(proposal.mass, proposal.mass.mean()):
        raise ValueError(f"the variance of {strategy} draws is known for a uniform proposal only")
    shift, weight = _grid(64)
    points = (shift[:, None] + torch.arange(draws, dtype=F64)) / draws
    error = integrand.f(points).mean(1) - integrand.integral
    noise = (integrand.noise**2 * integrand.f(u).square() * du).sum().item() / draws
    return (error.square() * weight).sum().item() + noise


def measure(
    integrand: Integrand, sampler: NoiseLevelSampler, draws: int, replicates: int, g: torch.Generator
) -> Measured:
    """The same variance from independent replicates of the sampler, in float64.

    A replicate is the mean over the K draws of one upstream sample; for ``global`` and ``sobol``, which
    spread one batch, over K upstream samples with one draw each. Replicates go to the meter as vectors of
    independent components: the trace of their covariance is that many variances.

    Args:
        replicates: at least this many; rounded up to whole vectors, of which there are 40 or more.
    """
    pooled = sampler.strategy in ("global", "sobol")
    lanes = min(64 if pooled else 1024, math.ceil(replicates / 40))
    vectors = math.ceil(replicates / lanes)
    meter = VarianceMeter()
    for _ in range(vectors):
        batches = [(draws, 1)] * lanes if pooled else [(lanes, draws)]
        parts = [sampler.draw(r, k, (), g, dtype=F64) for r, k in batches]
        estimates = [(d.weight * integrand.draw(d.u, d.eps)).mean(0 if pooled else 1) for d in parts]
        meter.update(torch.cat(estimates))
    variance = scaled(meter.estimate(), 1 / lanes)
    error = meter.mean.mean().item() - integrand.integral
    se = math.hypot(math.sqrt(variance.value / (lanes * vectors)), _ROUNDING)
    return Measured(variance, error / se, lanes * vectors)


def _grid(panels: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on `panels` equal panels of [0, 1), flat."""
    x, w = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(_NODES))
    nodes = (torch.arange(panels, dtype=F64)[:, None] + (x + 1) / 2) / panels
    return nodes.flatten(), (w / 2 / panels).repeat(panels)
