"""CARV lifted into someone else's pipeline: score distillation of a small differentiable renderer.

    python examples/own_pipeline.py

Of this project it takes `carv_distill.carv`, and `carv_distill.variance` to measure: no Lightning, no
diffusers, no YAML. Three Gaussian blobs are rendered to a 16 × 16 image and pulled towards the modes of a
diffusion teacher by

    ∇θ L = E_{t,ε} [ w(t) (ε̂(x_t, t) − ε) ∂x/∂θ ],    x_t = √ᾱ_t x + √(1 − ᾱ_t) ε,    w(t) = 1 − ᾱ_t.
"""

from __future__ import annotations

import torch
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, Proposal, average_residual, stream, surrogate
from carv_distill.variance import VarianceMeter

T, SIDE, K, STEPS = 1000, 16, 8, 400


# ---------------------------------------------------------------- the pipeline that was there before


def render(blobs: Tensor) -> Tensor:
    """Blobs [n, 4] = (row, column, log width, brightness), in units of the image's side → [SIDE, SIDE]."""
    place = (torch.arange(SIDE) + 0.5) / SIDE
    row, column, log_width, brightness = blobs.T[:, :, None, None]
    square = (place[:, None] - row).square() + (place - column).square()
    return (brightness * torch.exp(-square / (2 * log_width.exp().square()))).sum(0)


def predict_noise(x_t: Tensor, t: Tensor) -> Tensor:
    """ε̂ of an exact teacher: the data are two images, `MODES`, each with a little white noise."""
    a = ALPHAS_CUMPROD[t][:, None, None]
    total = a * 0.05**2 + 1 - a
    offset = x_t[:, None] - a.sqrt()[..., None] * MODES
    share = (-offset.square().sum((2, 3)) / (2 * total[:, 0])).softmax(1)
    return (1 - a).sqrt() / total * (share[:, :, None, None] * offset).sum(1)


ALPHAS_CUMPROD = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, T).square(), 0)
STEPS_OF_T = torch.arange(T)
W = (1 - ALPHAS_CUMPROD) * ((STEPS_OF_T >= 0.02 * T) & (STEPS_OF_T <= 0.6 * T))  # t_min … t_max of SDS
MODES = torch.stack(
    [
        render(torch.tensor([[0.3, 0.3, -2.0, 2.0], [0.3, 0.7, -2.0, 2.0], [0.7, 0.5, -1.6, 2.0]])),
        render(torch.tensor([[0.7, 0.3, -2.0, 2.0], [0.7, 0.7, -2.0, 2.0], [0.3, 0.5, -1.6, 2.0]])),
    ]
)
START = torch.tensor([[0.4, 0.35, -1.8, 1.0], [0.4, 0.65, -1.8, 1.0], [0.6, 0.5, -1.8, 1.0]])


# ---------------------------------------------------------------- what CARV changes in it


def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
    """w(t) (ε̂ − ε) at timestep t = ⌊u T⌋."""
    t = (u * T).long()
    a = ALPHAS_CUMPROD[t][:, None, None]
    x_t = a.sqrt() * x + (1 - a).sqrt() * eps
    return W[t][:, None, None] * (predict_noise(x_t, t) - eps)


def gradient(blobs: Tensor, sampler: NoiseLevelSampler, generator: torch.Generator) -> Tensor:
    """One estimate of ∇θ L: one render, K noise levels, one backward."""
    x = render(blobs)[None]
    draws = sampler.draw(upstream=1, draws=K, shape=x.shape[1:], generator=generator)
    direction = average_residual(residual, x, draws)
    return torch.autograd.grad(surrogate(x, direction), blobs)[0]


def distance(blobs: Tensor) -> float:
    """Root mean square difference between the render and the nearest mode."""
    return (render(blobs) - MODES).square().mean((1, 2)).min().sqrt().item()


def main() -> dict[str, float]:
    """Optimises the blobs, then compares samplers; returns the printed figures."""
    proposal = Proposal.from_weights(W)  # ω w is then a constant: the free importance weights of SDS
    iid, stratified = (NoiseLevelSampler(proposal, strategy) for strategy in ("iid", "stratified"))

    blobs = START.clone().requires_grad_()
    optimizer = torch.optim.Adam([blobs], lr=0.01)
    for step in range(STEPS):
        blobs.grad = gradient(blobs, stratified, stream(0, step))
        optimizer.step()
    figures = {"before": distance(START), "after": distance(blobs.detach())}
    print(f"distance to the nearest mode: {figures['before']:.3f} before, {figures['after']:.3f} after")

    for name, sampler in (("iid", iid), ("stratified", stratified)):
        meter = VarianceMeter()
        for replicate in range(600):
            meter.update(gradient(START.clone().requires_grad_(), sampler, stream(name, replicate)))
        low, high = meter.interval()
        print(
            f"variance of the first gradient, K = {K}, {name}: {meter.variance:.4g} [{low:.4g}, {high:.4g}]"
        )
        figures[name] = meter.variance
    return figures


if __name__ == "__main__":
    main()
