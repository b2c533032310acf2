"""Where the variance of your own pipeline comes from, and which (R, K) to use.

    python examples/advise_own_pipeline.py

The pipeline is two functions: one makes upstream samples from a generator, the other gives the residual of
re-noised samples. Here a camera is drawn at random (the expensive part: it sleeps two milliseconds), a small
scene is seen from it, and a Gaussian teacher pulls the view towards its mean.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, Proposal, Residual, stream
from carv_distill.variance import MeasuredGradient, analyse, analysis_summary

SIDE, POINTS = 12, 40


def main() -> dict[str, float]:
    """Prints the comparison and the advice (all tables: `analysis_report`); returns the
    predicted ECM of each sampler's advice."""
    scene = torch.randn(POINTS, 3, generator=stream("scene")).requires_grad_()

    def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
        """D(x_t) − x for data N(0, I/4) at σ = 10^(2u − 1), weighted by 1/(1 + σ²)."""
        sigma = (10 ** (2 * u - 1)).view(-1, 1, 1)
        denoised = 0.25 / (0.25 + sigma.square()) * (x + sigma * eps)
        return (x - denoised) / (1 + sigma.square())

    def pipeline(count: int, generator: torch.Generator) -> tuple[Tensor, Residual]:
        """Views [count, SIDE, SIDE] of the scene, each from its own direction."""
        time.sleep(0.002 * count)
        basis = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator)).Q
        seen = torch.einsum("pi,cij->cpj", scene, basis)[..., :2]
        grid = torch.linspace(-2, 2, SIDE)
        rows = torch.exp(-4 * (seen[..., :1] - grid).square())
        columns = torch.exp(-4 * (seen[..., 1:] - grid).square())
        return torch.einsum("cpi,cpj->cij", rows, columns), residual

    sampler = NoiseLevelSampler(Proposal.uniform())
    gradient = MeasuredGradient(pipeline, [scene], sampler, upstream=2, draws=8, seed=0, device=scene.device)
    analysis = analyse(gradient, 2, (1, 2, 4, 8), progress=print)
    print(*analysis_summary(analysis), sep="\n\n")
    return {arm: a.ecm for arm, a in analysis.advice.items()}


if __name__ == "__main__":
    main()
