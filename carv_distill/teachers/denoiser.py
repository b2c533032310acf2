"""The face of every teacher, D(x_t, σ, cond) = E[x | x_t], and the preconditionings behind it.

All the usual parametrisations are one formula around a raw network F:

    D(x_t, σ) = c_skip(σ) x_t + c_out(σ) F(c_in(σ) x_t, c_noise(σ), cond),     x_t = x + σ ε.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .schedule import VPSchedule


class Coefficients(NamedTuple):
    """The four scalars of a preconditioning at given noise levels, each of the shape of σ."""

    skip: Tensor
    out: Tensor
    into: Tensor
    noise: Tensor


Preconditioning = Callable[[Tensor], Coefficients]
"""σ of any shape → its coefficients. Two are equal where they give the same ones."""


@dataclass(frozen=True)
class EDMPreconditioning:
    """c_skip = σ_d²/(σ²+σ_d²), c_out = σ σ_d/√(σ²+σ_d²), c_in = 1/√(σ²+σ_d²), c_noise = ln(σ)/4.

    Source: Karras et al. 2022 (EDM), table 1.
    """

    sigma_data: float = 0.5

    def __call__(self, sigma: Tensor) -> Coefficients:
        total = sigma.square() + self.sigma_data**2
        scale = total.rsqrt()
        return Coefficients(
            self.sigma_data**2 / total, sigma * self.sigma_data * scale, scale, sigma.log() / 4
        )


@dataclass(frozen=True)
class EpsPreconditioning:
    """F predicts ε from x_vp = c_in x_t: D = x_t − σ F."""

    schedule: VPSchedule

    def __call__(self, sigma: Tensor) -> Coefficients:
        scale = (1 + sigma.square()).rsqrt()
        return Coefficients(torch.ones_like(sigma), -sigma, scale, self.schedule.timestep(sigma))


@dataclass(frozen=True)
class VPreconditioning:
    """F predicts v = α ε − α σ x with α = 1/√(1+σ²): D = α² x_t − α σ F.

    Source: Salimans & Ho 2022, appendix D.
    """

    schedule: VPSchedule

    def __call__(self, sigma: Tensor) -> Coefficients:
        scale = (1 + sigma.square()).rsqrt()
        return Coefficients(scale.square(), -sigma * scale, scale, self.schedule.timestep(sigma))


@dataclass(frozen=True)
class SamplePreconditioning:
    """F predicts x itself: D = F."""

    schedule: VPSchedule

    def __call__(self, sigma: Tensor) -> Coefficients:
        scale = (1 + sigma.square()).rsqrt()
        return Coefficients(
            torch.zeros_like(sigma), torch.ones_like(sigma), scale, self.schedule.timestep(sigma)
        )


class Denoiser(nn.Module):
    """denoised = D(x_t, sigma, cond): x_t [n, …], sigma [n], cond [n] labels or None → [n, …]."""

    def forward(self, x_t: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """E[x | x_t = x + σ ε, cond]."""
        raise TypeError(f"{type(self).__name__} does not say how it denoises")

    def predict_noise(self, x_t: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """ε̂ = (x_t − D)/σ = E[ε | x_t, cond]."""
        return (x_t - self(x_t, sigma, cond)) / sigma.view(-1, *[1] * (x_t.ndim - 1))


class GaussianDenoiser(Denoiser):
    """Data N(μ, diag(s²)) in closed form: D = (σ² μ + s² x_t)/(s² + σ²); μ and s² of one x's shape."""

    mean: Tensor
    variance: Tensor

    def __init__(self, mean: Tensor, variance: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("variance", torch.as_tensor(variance, dtype=mean.dtype).expand_as(mean).clone())

    def forward(self, x_t: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        s2, level2 = self.variance.flatten(), sigma.view(-1, 1).square()
        flat = (level2 * self.mean.flatten() + s2 * x_t.flatten(1)) / (s2 + level2)
        return flat.view_as(x_t)


class NetworkDenoiser(Denoiser):
    """A raw network F(x, c_noise, cond) behind a preconditioning.

    The arithmetic around the network stays in x_t's precision, whatever the network computes in.
    """

    def __init__(self, network: nn.Module, precondition: Preconditioning) -> None:
        super().__init__()
        self.network = network
        self.precondition = precondition

    def coefficients(self, x_t: Tensor, sigma: Tensor) -> Coefficients:
        """The preconditioning at σ, shaped to multiply x_t (c_noise stays [n])."""
        c = self.precondition(sigma)
        shape = (-1, *[1] * (x_t.ndim - 1))
        return Coefficients(c.skip.view(shape), c.out.view(shape), c.into.view(shape), c.noise)

    def raw(self, x_t: Tensor, c: Coefficients, cond: Tensor | None) -> Tensor:
        """F(c_in x_t, c_noise, cond) in x_t's dtype."""
        return self.network(c.into * x_t, c.noise, cond).to(x_t.dtype)

    def forward(self, x_t: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        c = self.coefficients(x_t, sigma)
        return c.skip * x_t + c.out * self.raw(x_t, c, cond)

    def predict_noise(self, x_t: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """ε̂ = ((1 − c_skip) x_t − c_out F)/σ: F itself under ε-prediction, without cancellation."""
        c = self.coefficients(x_t, sigma)
        level = sigma.view(c.skip.shape)
        return ((1 - c.skip) * x_t - c.out * self.raw(x_t, c, cond)) / level


class GuidedDenoiser(NetworkDenoiser):
    """Classifier-free guidance: F_∅ + s (F_cond − F_∅), so D_∅ + s (D_cond − D_∅).

    Args:
        base: a conditional denoiser that was trained with dropped conditions.
        scale: s; 1 is the conditional model, 0 the unconditional one.
        null: the condition of one row that stands for none: a label [], an empty prompt's embedding [L, D].

    Source: Ho & Salimans 2022, equation 6 (with s = 1 + w).
    """

    null: Tensor

    def __init__(self, base: NetworkDenoiser, scale: float, null: Tensor) -> None:
        super().__init__(base.network, base.precondition)
        self.scale = scale
        self.register_buffer("null", null, persistent=False)

    def raw(self, x_t: Tensor, c: Coefficients, cond: Tensor | None) -> Tensor:
        if cond is None:
            raise ValueError("guidance needs a condition")
        both = Coefficients(*(torch.cat([t, t]) for t in c))
        f = super().raw(torch.cat([x_t, x_t]), both, torch.cat([cond, self.null.expand_as(cond)]))
        conditional, unconditional = f.chunk(2)
        return torch.lerp(unconditional, conditional, self.scale)


def denoised_difference(
    a: Denoiser, b: Denoiser, x_t: Tensor, sigma: Tensor, cond: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(D_a − D_b, D_b) on the same x_t.

    Where both are networks behind one preconditioning, the difference is c_out (F_a − F_b): the common
    skip part never enters, which at small σ would cancel catastrophically.
    """
    if isinstance(a, NetworkDenoiser) and isinstance(b, NetworkDenoiser) and a.precondition == b.precondition:
        c = a.coefficients(x_t, sigma)
        raw_b = b.raw(x_t, c, cond)
        return c.out * (a.raw(x_t, c, cond) - raw_b), c.skip * x_t + c.out * raw_b
    denoised_b = b(x_t, sigma, cond)
    return a(x_t, sigma, cond) - denoised_b, denoised_b


def denoising_loss(denoiser: NetworkDenoiser, x: Tensor, sigma: Tensor, eps: Tensor, cond: Tensor) -> Tensor:
    """mean (F − (x − c_skip x_t)/c_out)² = mean λ(σ) (D(x_t) − x)² with λ = 1/c_out²: what trains a network.

    For the EDM preconditioning λ = (σ² + σ_d²)/(σ σ_d)², the EDM loss; for ε-prediction it is the DDPM
    loss ‖F − ε‖². Shapes: x, eps [n, …]; sigma, cond [n] → scalar.

    Source: Karras et al. 2022 (EDM), equation 8; Ho et al. 2020, equation 14.
    """
    return F.mse_loss(*_raw_and_ideal(denoiser, x, sigma, eps, cond))


def reconstruction_loss(
    denoiser: NetworkDenoiser, x: Tensor, sigma: Tensor, eps: Tensor, cond: Tensor
) -> Tensor:
    """mean (D(x_t) − x)², the plain error: every noise level counts by its own error, so small ones hardly.

    Shapes as of :func:`denoising_loss`. From c_out (F − ideal), where nothing cancels.
    """
    raw, ideal = _raw_and_ideal(denoiser, x, sigma, eps, cond)
    return (denoiser.coefficients(x, sigma).out * (raw - ideal)).square().mean()


def denoising_losses(
    denoiser: NetworkDenoiser, x: Tensor, sigma: Tensor, eps: Tensor, cond: Tensor | None
) -> Tensor:
    """The same for each row apart, a mean over its entries: [n]."""
    raw, ideal = _raw_and_ideal(denoiser, x, sigma, eps, cond)
    return (raw - ideal).square().flatten(1).mean(1)


def _raw_and_ideal(
    denoiser: NetworkDenoiser, x: Tensor, sigma: Tensor, eps: Tensor, cond: Tensor | None
) -> tuple[Tensor, Tensor]:
    c = denoiser.coefficients(x, sigma)
    x_t = x + sigma.view(c.skip.shape) * eps
    return denoiser.raw(x_t, c, cond), (x - c.skip * x_t) / c.out
