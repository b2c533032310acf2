"""A discriminator that reads a denoiser's encoder, of pictures noised as the denoiser sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carv_distill.carv import stream
from carv_distill.errors import UserError
from carv_distill.teachers.condition import Cond
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.network import RawNetwork


class Discriminator(nn.Module):
    """h_s(x_t) ∈ ℝ from the features of each of the encoder's lowest sides, by a head for each.

    A head halves the side by strided 4×4 convolutions down to four, takes that in one convolution, and gives
    one number; a group norm and SiLU lie between. It reads DMD2's bottleneck with one side, and FastGen's
    features with three.

    Args:
        network: whose encoder is read; only the shapes are taken from it.
        cond: of one row, to read them with.
        scales: sides that are read, the lowest ones.
        seed: of the first weights.

    Raises:
        UserError: the encoder has fewer sides.

    Source: Yin et al. 2024 (DMD2), section 4.3.
    """

    def __init__(self, network: RawNetwork, cond: Cond, scales: int, seed: int) -> None:
        super().__init__()
        shapes = feature_shapes(network, cond)
        if scales > len(shapes):
            raise UserError(
                f"dmd.gan.scales: {scales}, but the teacher's encoder has {len(shapes)} (sides "
                f"{', '.join(str(side) for _, side in shapes)})"
            )
        self.heads = nn.ModuleList(_head(*shape) for shape in shapes[:scales])
        g = stream(seed, "gan head")
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                bound = layer.weight[0].numel() ** -0.5  # torch's own bound, from a stream of its own
                nn.init.uniform_(layer.weight, -bound, bound, generator=g)
                nn.init.uniform_(cast(Tensor, layer.bias), -bound, bound, generator=g)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[n, C_s, s, s] of each side → [n, scales], in float32 at least."""
        dtype = next(self.parameters()).dtype
        values = [head(part.to(dtype)).flatten(1) for head, part in zip(self.heads, features, strict=True)]
        logits = torch.cat(values, 1)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def logits(self, read: NetworkDenoiser, x: Tensor, sigma: Tensor, eps: Tensor, cond: Cond) -> Tensor:
        """h of x_t = x + σ ε by the encoder of `read`, [n, scales]; large for what looks real."""
        c = read.coefficients(x, sigma)
        network = cast(RawNetwork, read.network)
        return self(network.encoder(c.noised(x, eps), c.c_noise, cond)[: len(self.heads)])


def feature_shapes(network: RawNetwork, cond: Cond) -> list[tuple[int, int]]:
    """(channels, side) of the features that an encoder gives, in its order."""
    like = next(network.parameters())
    x = like.new_zeros(1, *network.shape)
    with torch.no_grad():
        features = network.encoder(x, x.new_zeros(1), cond)
    return [(part.shape[1], min(part.shape[2:])) for part in features]


def _head(channels: int, side: int) -> nn.Sequential:
    """[n, C, s, s] → [n, 1, 1, 1]."""
    layers: list[nn.Module] = []

    def reduce(kernel: int, stride: int, padding: int) -> None:
        groups = math.gcd(32, max(1, channels // 4), channels)
        layers.append(nn.Conv2d(channels, channels, kernel, stride, padding))
        layers.extend([nn.GroupNorm(groups, channels), nn.SiLU()])

    while side > 4:
        reduce(4, 2, 1)
        side //= 2
    reduce(side, 1, 0)
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 1))


def discriminator_loss(generated: Tensor, real: Tensor) -> Tensor:
    """mean softplus(h(generated)) + mean softplus(−h(real)), of logits [n, scales].

    Source: Goodfellow et al. 2014, equation 1, in logits.
    """
    return F.softplus(generated).mean() + F.softplus(-real).mean()


def generator_direction(
    read: NetworkDenoiser, head: Discriminator, x: Tensor, sigma: Tensor, eps: Tensor, cond: Cond
) -> Tensor:
    """∂ [mean over scales of softplus(−h(x_t))]/∂x of each sample, [R, …]: what the discriminator adds to a
    direction. Taken in x-space, so that one backward through the generator serves both terms."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        loss = F.softplus(-head.logits(read, leaf, sigma, eps, cond)).mean(1).sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient
