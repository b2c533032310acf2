"""The face of every teacher, D(x_t, σ, cond) = E[x | x_t = x + σ ε], and networks behind it."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .condition import Cond, Condition, HeldCondition, joined, repeated
from .parametrisation import Coefficients, Preconditioning


class Denoiser(nn.Module):
    """denoised = D(x_t, sigma, cond): x_t [n, …], sigma [n], cond of n rows or None → [n, …]."""

    def forward(self, x_t: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        """E[x | x_t = x + σ ε, cond]."""
        raise TypeError(f"{type(self).__name__} does not say how it denoises")

    def predict_noise(self, x: Tensor, sigma: Tensor, eps: Tensor, cond: Cond = None) -> Tensor:
        """ε̂ = (x_t − D)/σ = E[ε | x_t, cond] at x_t = x + σ ε."""
        level = sigma.view(-1, *[1] * (x.ndim - 1))
        x_t = x + level * eps
        return (x_t - self(x_t, sigma, cond)) / level


class GaussianDenoiser(Denoiser):
    """Data N(μ, diag(s²)) in closed form: D = (σ² μ + s² x_t)/(s² + σ²); μ and s² of one x's shape."""

    mean: Tensor
    variance: Tensor

    def __init__(self, mean: Tensor, variance: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("variance", torch.as_tensor(variance, dtype=mean.dtype).expand_as(mean).clone())

    def forward(self, x_t: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        s2, level2 = self.variance.flatten(), sigma.view(-1, 1).square()
        flat = (level2 * self.mean.flatten() + s2 * x_t.flatten(1)) / (s2 + level2)
        return flat.view_as(x_t)


class NetworkDenoiser(Denoiser):
    """A raw network F(y, c_noise, cond) behind a preconditioning.

    The arithmetic around the network stays in x's precision, whatever the network computes in.
    """

    def __init__(self, network: nn.Module, precondition: Preconditioning) -> None:
        super().__init__()
        self.network = network
        self.precondition = precondition

    def coefficients(self, x: Tensor, sigma: Tensor) -> Coefficients:
        """The preconditioning at σ, shaped to multiply x (c_noise stays [n])."""
        return self.precondition(sigma).shaped(x.ndim)

    def raw(self, y: Tensor, c: Coefficients, cond: Cond) -> Tensor:
        """F(y, c_noise, cond) in y's dtype."""
        return self.network(y, c.c_noise, cond).to(y.dtype)

    def forward(self, x_t: Tensor, sigma: Tensor, cond: Cond = None) -> Tensor:
        c = self.coefficients(x_t, sigma)
        return self.of_input(c.signal * x_t, c, cond)

    def of_input(self, y: Tensor, c: Coefficients, cond: Cond) -> Tensor:
        """x̂ = p y + q F of the network's own input y."""
        return c.skip * y + c.out * self.raw(y, c, cond)

    def of_noise(self, z: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        """x̂ of noise of unit variance that the network sees as it is, y = z: what a one-step generator makes.

        D(σ z, σ) has y = b z instead, which is less than unit variance unless σ is infinite.
        """
        return self.of_input(z, self.coefficients(z, sigma), cond)

    def predict_noise(self, x: Tensor, sigma: Tensor, eps: Tensor, cond: Cond = None) -> Tensor:
        """ε̂ = r y + s F: F itself under ε-prediction, without cancellation."""
        c = self.coefficients(x, sigma)
        y = c.noised(x, eps)
        return c.eps_skip * y + c.eps_out * self.raw(y, c, cond)


class GuidedDenoiser(NetworkDenoiser):
    """Classifier-free guidance: F_∅ + s (F_cond − F_∅), so D_∅ + s (D_cond − D_∅).

    Args:
        base: a conditional denoiser that was trained with dropped conditions.
        scale: s; 1 is the conditional model, 0 the unconditional one.
        null: the condition that stands for none: a label [], or a prompt's
            tensors, each without its row axis.

    Source: Ho & Salimans 2022, equation 6 (with s = 1 + w).
    """

    def __init__(self, base: NetworkDenoiser, scale: float, null: Tensor | Condition) -> None:
        super().__init__(base.network, base.precondition)
        self.scale, self.null = scale, HeldCondition(null)

    def at_scale(self, scale: float) -> GuidedDenoiser:
        """The same network and null under another s."""
        other = copy.copy(self)
        other.scale = scale
        return other

    def raw(self, y: Tensor, c: Coefficients, cond: Cond) -> Tensor:
        conditional, unconditional = self.raw_of_each(y, c, cond, self.null.value)
        return torch.lerp(unconditional, conditional, self.scale)

    def raw_of_each(
        self, y: Tensor, c: Coefficients, cond: Cond, *others: Tensor | Condition
    ) -> tuple[Tensor, ...]:
        """F of the same y under its own condition, and under others that all rows have in common, in one call
        of the network.

        Args:
            others: each without its row axis.
        """
        return self.raw_of_rows(y, c, cond, *(repeated(other, len(y)) for other in others))

    def raw_of_rows(
        self, y: Tensor, c: Coefficients, cond: Cond, *others: Tensor | Condition
    ) -> tuple[Tensor, ...]:
        """The same, with `others` of a row for each row of y."""
        if cond is None:
            raise ValueError("guidance needs a condition")
        count = 1 + len(others)
        for other in others:
            cond = joined(cond, other)
        many = Coefficients(*(torch.cat([t] * count) for t in c))
        return super().raw(torch.cat([y] * count), many, cond).chunk(count)


def denoised_difference(
    a: Denoiser, b: Denoiser, x: Tensor, sigma: Tensor, eps: Tensor, cond: Cond
) -> tuple[Tensor, Tensor]:
    """(D_a − D_b, D_b) on the same x_t = x + σ ε.

    Where both are networks behind one preconditioning, the difference is q (F_a − F_b): the common part of y
    never enters, which at small σ would cancel catastrophically.
    """
    if isinstance(a, NetworkDenoiser) and isinstance(b, NetworkDenoiser) and a.precondition == b.precondition:
        c = a.coefficients(x, sigma)
        y = c.noised(x, eps)
        raw_b = b.raw(y, c, cond)
        return c.out * (a.raw(y, c, cond) - raw_b), c.skip * y + c.out * raw_b
    x_t = x + sigma.view(-1, *[1] * (x.ndim - 1)) * eps
    denoised_b = b(x_t, sigma, cond)
    return a(x_t, sigma, cond) - denoised_b, denoised_b


def denoising_loss(denoiser: NetworkDenoiser, x: Tensor, sigma: Tensor, eps: Tensor, cond: Cond) -> Tensor:
    """mean (F − ideal F)² = mean λ(σ) (D(x_t) − x)² with λ = 1/q²: what trains a network.

    For the EDM preconditioning λ = (σ² + σ_d²)/(σ σ_d)², the EDM loss; for ε-prediction it is the DDPM loss
    ‖F − ε‖², for flow matching ‖F − (ε − x)‖². Shapes: x, eps [n, …]; sigma [n]; cond of n rows → scalar.

    Source: Karras et al. 2022 (EDM), equation 8; Ho et al. 2020, equation 14; Lipman et al. 2023, equation 9.
    """
    return F.mse_loss(*raw_and_ideal(denoiser, x, sigma, eps, cond))


def reconstruction_loss(
    denoiser: NetworkDenoiser, x: Tensor, sigma: Tensor, eps: Tensor, cond: Cond
) -> Tensor:
    """mean (D(x_t) − x)², the plain error: every noise level counts by its own error, so small ones hardly.

    Shapes as of :func:`denoising_loss`. From q (F − ideal), where nothing cancels.
    """
    raw, ideal = raw_and_ideal(denoiser, x, sigma, eps, cond)
    return (denoiser.coefficients(x, sigma).out * (raw - ideal)).square().mean()


def denoising_losses(denoiser: NetworkDenoiser, x: Tensor, sigma: Tensor, eps: Tensor, cond: Cond) -> Tensor:
    """The same for each row apart, a mean over its entries: [n]."""
    raw, ideal = raw_and_ideal(denoiser, x, sigma, eps, cond)
    return (raw - ideal).square().flatten(1).mean(1)


def raw_and_ideal(
    denoiser: NetworkDenoiser, x: Tensor, sigma: Tensor, eps: Tensor, cond: Cond
) -> tuple[Tensor, Tensor]:
    """F and what it would be if x̂ = x and ε̂ = ε: from x = p y + q F and ε = r y + s F,
    F = (p ε − r x)/(p s − q r), in which nothing cancels."""
    c = denoiser.coefficients(x, sigma)
    ideal = (c.skip * eps - c.eps_skip * x) / (c.skip * c.eps_out - c.out * c.eps_skip)
    return denoiser.raw(c.noised(x, eps), c, cond), ideal
