"""A discriminator on the fake score's features, noised as the fake score sees them."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carv_distill.carv import stream
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.network import RawNetwork


class Discriminator(nn.Module):
    """h(x_t) ∈ ℝ from the fake score's bottleneck: a strided convolution, a 1×1 one, the mean over places.

    Source: Yin et al. 2024 (DMD2), section 4.3.
    """

    def __init__(self, channels: int, seed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels, 3, 2, 1)
        self.norm = nn.GroupNorm(math.gcd(32, max(1, channels // 4), channels), channels)
        self.out = nn.Conv2d(channels, 1, 1)
        g = stream(seed, "gan head")
        for layer in (self.reduce, self.out):
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=fan_in**-0.5, generator=g)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """[n, C, h, w] → [n], in float32 at least."""
        hidden = F.silu(self.norm(self.reduce(features)))
        places = self.out(hidden)
        return places.to(torch.promote_types(places.dtype, torch.float32)).mean((1, 2, 3))

    def logits(
        self, fake: NetworkDenoiser, x: Tensor, sigma: Tensor, eps: Tensor, cond: Tensor | None
    ) -> Tensor:
        """h of x_t = x + σ ε under the fake score's first half, [n]; large for what looks real."""
        c = fake.coefficients(x, sigma)
        x_t = x + sigma.view(c.skip.shape) * eps
        network = cast(RawNetwork, fake.network)
        return self(network.bottleneck(c.into * x_t, c.noise, cond))


def discriminator_loss(generated: Tensor, real: Tensor) -> Tensor:
    """mean softplus(h(generated)) + mean softplus(−h(real)), of logits [n].

    Source: Goodfellow et al. 2014, equation 1, in logits.
    """
    return F.softplus(generated).mean() + F.softplus(-real).mean()


def generator_direction(
    fake: NetworkDenoiser, head: Discriminator, x: Tensor, sigma: Tensor, eps: Tensor, cond: Tensor | None
) -> Tensor:
    """∂ softplus(−h(x_t))/∂x of each sample, [R, …]: what the discriminator adds to a direction. Taken in
    x-space, so that one backward through the generator serves both terms."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        loss = F.softplus(-head.logits(fake, leaf, sigma, eps, cond)).sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient
