"""Noise schedules: a place u in [0, 1) → a noise level σ, the noise-to-signal ratio.

Everything here speaks of x_t = x + σ ε (k-diffusion's language). A variance-preserving process
α (x + σ ε), α = 1/√(1 + σ²), and a flow (1 − t) x + t ε, σ = t/(1 − t), are the same thing scaled. The prior
over noise levels is uniform in u. Pure noise is σ = ∞.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from carv_distill.errors import UserError


class NoiseSchedule(Protocol):
    """u → σ, increasing."""

    @property
    def sigma_min(self) -> float:
        """σ at u = 0."""

    @property
    def sigma_max(self) -> float:
        """σ as u → 1."""

    def sigma(self, u: Tensor) -> Tensor:
        """Noise level at u in [0, 1], same shape and dtype."""


@dataclass(frozen=True)
class EDMSchedule:
    """σ(u) = (σ_min^{1/ρ} + u (σ_max^{1/ρ} − σ_min^{1/ρ}))^ρ.

    Source: Karras et al. 2022 (EDM), equation 5, with time reversed.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def sigma(self, u: Tensor) -> Tensor:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (low + u * (high - low)) ** self.rho


def check_levels(schedule: NoiseSchedule, place: str) -> None:
    """That a schedule is one: at least two levels, finite and positive in float32, increasing in u. The last
    one of discrete levels may be infinite.

    Args:
        place: begins the message: the file and its keys.

    Raises:
        UserError: it is none, saying which of these it lacks.
    """
    if isinstance(schedule, DiscreteSchedule):
        levels = schedule.table
    else:
        try:
            levels = schedule.sigma(torch.linspace(0, 1, 1025, dtype=torch.float64))
        except (ArithmeticError, TypeError) as error:  # of Python's powers
            raise UserError(f"{place} are no noise levels: {error}") from error
    if levels.ndim != 1 or levels.numel() < 2:
        raise UserError(f"{place} are no noise levels: found {levels.numel()}, at least two are needed")
    infinite = ~levels.float().isfinite()  # networks compute in float32
    if isinstance(schedule, DiscreteSchedule):
        infinite[-1] = levels[-1].isnan() or (levels[-1].isfinite() and infinite[-1])
    for lacking, wrong in (
        ("finite", infinite),
        ("positive", levels.float() <= 0),
        ("increasing", torch.cat([levels[:1] < 0, levels.diff() <= 0])),
    ):
        if wrong.any():
            found = float(levels[wrong][0])
            raise UserError(f"{place} are no noise levels: all must be {lacking}, found σ = {found:g}")


@dataclass(frozen=True)
class LogNormalSchedule:
    """ln σ ~ N(mean, std²) for uniform u, by the inverse normal distribution function; clipped to
    [σ_min, σ_max].

    The levels that an EDM network is trained on, as a schedule.

    Source: Karras et al. 2022 (EDM), table 1.
    """

    mean: float
    std: float
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def sigma(self, u: Tensor) -> Tensor:
        z = torch.special.ndtri(u)  # ∓∞ at the ends, which the clipping takes in
        return (self.mean + self.std * z).exp().clamp(self.sigma_min, self.sigma_max)


class DiscreteSchedule:
    """σ of timestep ⌊u T⌋ from a table.

    With a :class:`~carv_distill.carv.Proposal` of T bins, bin t is timestep t.

    Args:
        table: σ_0 < … < σ_{T−1}, float64 [T]; the last may be infinite.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table.double()
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def __eq__(self, other: object) -> bool:
        """Same levels: a copied or reloaded schedule is the same schedule."""
        return type(other) is type(self) and torch.equal(self.table, other.table)

    def __hash__(self) -> int:
        return hash((self.timesteps, self.sigma_min, self.sigma_max))

    @property
    def timesteps(self) -> int:
        """T."""
        return self.table.numel()

    @property
    def sigma_min(self) -> float:
        """σ at timestep 0."""
        return float(self.table[0])

    @property
    def sigma_max(self) -> float:
        """σ at timestep T − 1."""
        return float(self.table[-1])

    def sigma(self, u: Tensor) -> Tensor:
        """σ of timestep ⌊u T⌋, for u in [0, 1]; same shape and dtype."""
        return self.sigma_at((u * self.timesteps).long(), u)

    def sigma_at(self, timestep: Tensor, like: Tensor) -> Tensor:
        """σ of whole timesteps, in another tensor's precision."""
        table, _ = self._table(like)
        return table[timestep.clamp(0, self.timesteps - 1)]

    def place_of(self, sigma: Tensor) -> Tensor:
        """The timestep, 0 … T − 1, of levels of the table in any precision; int64, same shape."""
        table, _ = self._table(sigma)
        return torch.searchsorted(table, sigma).clamp(max=self.timesteps - 1)

    def timestep(self, sigma: Tensor) -> Tensor:
        """What the network is told of a noise level."""
        raise NotImplementedError

    def _table(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(σ, ln σ) of all timesteps, once per device and dtype."""
        key = (like.device, like.dtype)
        if key not in self._tables:
            self._tables[key] = (self.table.to(like), self.table.log().to(like))
        return self._tables[key]


class VPSchedule(DiscreteSchedule):
    """The discrete variance-preserving process of DDPM: σ_t = √((1 − ᾱ_t)/ᾱ_t).

    Any beta table will do; β_{T−1} = 1 is zero signal at its end, σ = ∞.

    Args:
        betas: β_0 … β_{T−1} in (0, 1], shape [T].

    Source: Ho et al. 2020 (DDPM), equation 4; Lin et al. 2024 for zero signal.
    """

    def __init__(self, betas: Tensor) -> None:
        alphas_cumprod = torch.cumprod(1 - betas.double(), 0)
        super().__init__(((1 - alphas_cumprod) / alphas_cumprod).sqrt())

    def timestep(self, sigma: Tensor) -> Tensor:
        """The timestep of a noise level, interpolated in ln σ; an integer for a level of the table."""
        table, log_table = self._table(sigma)
        log_sigma = sigma.log()
        high = torch.searchsorted(log_table, log_sigma).clamp_(1, self.timesteps - 1)
        low = high - 1
        place = (log_sigma - log_table[low]) / (log_table[high] - log_table[low])
        timestep = low + place.nan_to_num(nan=1.0).clamp_(0, 1)  # ∞/∞ at the level of pure noise itself
        # In float32 the logarithm of a rounded level is not the rounded logarithm.
        nearest = timestep.round()
        return torch.where(table[nearest.long()] == sigma, nearest, timestep)


class FlowSchedule(DiscreteSchedule):
    """The straight path x_t = (1 − t) x + t ε at t = s i/(T + (s − 1) i), i = 1 … T: σ = t/(1 − t), the last
    one infinite.

    The network is told T t. A shift s > 1 moves levels towards noise, as larger pictures need.

    Args:
        timesteps: T.
        shift: s > 0.

    Source: Esser et al. 2024 (SD3), equation 23, for the shift.
    """

    def __init__(self, timesteps: int = 1000, shift: float = 1.0) -> None:
        i = torch.arange(1, timesteps + 1, dtype=torch.float64)
        super().__init__(shift * i / (timesteps - i))

    def timestep(self, sigma: Tensor) -> Tensor:
        """T t, t = σ/(1 + σ), T at σ = ∞."""
        return self.timesteps / (1 + 1 / sigma)
