"""Every sampler's variance at every K from one set of draws: two in each of S fine strata of the level.

Of a sample let g(u, ε) be a draw's gradient (or the mean of a pair of opposite noises), and in stratum s of S
equal ones m_s = E g, e_s = E‖g‖². From two independent draws in each,

    e_s ≈ (‖g_s1‖² + ‖g_s2‖²)/2,  ‖m_s‖² ≈ ⟨g_s1, g_s2⟩,  ⟨m_s, m_t⟩ ≈ mean of the four ⟨g_si, g_tj⟩ for s ≠ t

without bias. A sampler with K draws has them in cells with shares a_ks of the fine strata, Σ_s a_ks = 1, and
importance weights ω_s; where the level does not matter within a fine stratum its variance is

    Var = 1/K² Σ_k [ Σ_s a_ks ω_s² e_s − ‖Σ_s a_ks ω_s m_s‖² ].

Where it does, a cell that cuts a stratum is charged all of the stratum's spread, against strata: exact for
uniform cells that are whole strata, the more too large the narrower cells are. :func:`refined` takes most of
that away.

Another law of the level, of density r over u, has the mean Σ_s r_s m_s / S: the moments of r g, drawn with
the density r where a sampler was uniform.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from carv_distill.variance import Estimate, mean_estimate, paired_ratio

BUDGETS = (1, 2, 4, 8, 16, 32, 64)
PARTS = 8
"""Places in a stratum for which :func:`refined` interpolates."""
DEFENSIVE = 0.1
"""Share of the uniform density in a proposal."""


@dataclass(frozen=True)
class Moments:
    """Of one sample's draws over S fine strata of u, float64."""

    square: Tensor
    """e_s, [S]."""
    inner: Tensor
    """⟨m_s, m_t⟩, [S, S]."""

    @classmethod
    def of(cls, draws: Tensor) -> Moments:
        """From features [S, 2, m]: two independent draws in each stratum."""
        g = draws.double()
        products = torch.einsum("sim,tjm->stij", g, g)
        inner = products.mean((2, 3))
        inner.diagonal().copy_(products.diagonal().movedim(-1, 0)[:, [0, 1], [1, 0]].mean(1))
        return cls(g.square().sum(2).mean(1), inner)

    def level(self, law: Tensor | None = None) -> float:
        """V_level = E‖m_s − m‖², under a law of the level of density r, [S] with mean 1; uniform without."""
        r = torch.ones_like(self.square) if law is None else law
        return float((r * self.inner.diagonal()).mean() - self.under(r).inner.mean())

    def noise(self, law: Tensor | None = None) -> float:
        """V_noise = E‖g − m_s‖², likewise."""
        r = torch.ones_like(self.square) if law is None else law
        return float((r * (self.square - self.inner.diagonal())).mean())

    def under(self, law: Tensor) -> Moments:
        """Of r g, whose uniform mean is that of g under the law."""
        return Moments(law.square() * self.square, law[:, None] * self.inner * law)


def refined(m: Moments) -> Moments:
    """The same at PARTS places in each stratum: E g as a line with the slope between both neighbours' means
    and the stratum's own mean, noise as everywhere in it. Linear in the moments, so no bias but that of a
    line."""
    count = len(m.square)
    place = torch.arange(count)
    above, below = (place + 1).clamp(max=count - 1), (place - 1).clamp(min=0)
    offset = (torch.arange(PARTS, dtype=m.inner.dtype) + 0.5) / PARTS - 0.5
    slope = torch.zeros_like(m.inner)
    slope[place, above] += 1.0 / (above - below)
    slope[place, below] -= 1.0 / (above - below)
    line = torch.eye(count, dtype=m.inner.dtype)[:, None] + offset[:, None] * slope[:, None]
    inner = torch.einsum("spa,ab,tqb->sptq", line, m.inner, line)
    level = torch.einsum("spsp->sp", inner)
    square = m.square[:, None] + level - level.mean(1, keepdim=True)
    return Moments(square.flatten(), inner.reshape(count * PARTS, count * PARTS))


def averaged(moments: list[Moments]) -> Moments:
    """The mean over samples, of which a proposal is made."""
    return Moments(
        torch.stack([m.square for m in moments]).mean(0), torch.stack([m.inner for m in moments]).mean(0)
    )


def importance(m: Moments, law: Tensor) -> Tensor:
    """q ∝ √E‖g‖² over the strata, [S] with mean 1: the best density of independent draws.

    Args:
        law: of the level, [S] with mean 1, of which a proposal keeps a share.
    """
    return _mixed(m.square.clamp(min=0).sqrt(), law)


def neyman(m: Moments, law: Tensor) -> Tensor:
    """q ∝ √(E‖g‖² − ‖m‖²): the best of many strata."""
    return _mixed((m.square - m.inner.diagonal()).clamp(min=0).sqrt(), law)


def _mixed(weight: Tensor, law: Tensor) -> Tensor:
    return (1 - DEFENSIVE) * weight / weight.mean() + DEFENSIVE * law


def iid(m: Moments, q: Tensor, draws: int) -> float:
    """Variance of K independent draws of density q."""
    return float((m.square / q).mean() - m.inner.mean()) / draws


def stratified(m: Moments, q: Tensor, draws: int) -> float:
    """Variance of one draw in each of K cells of equal mass of q."""
    shares = cells(q, draws)
    weighted = shares / q
    mean_squares = torch.einsum("ks,st,kt->k", weighted, m.inner, weighted)
    return float(((shares / q.square()) @ m.square - mean_squares).sum()) / draws**2


def systematic(m: Moments, draws: int) -> float:
    """Variance of K levels (k + v)/K with one v for all: the spread of their mean over v, and the noise.

    K divides S, and is so much smaller that v has some values.
    """
    offsets = _places(m, draws).mean((1, 3)).diagonal()
    return float(offsets.mean() - m.inner.mean()) + m.noise() / draws


def midpoints(m: Moments, draws: int) -> tuple[float, float]:
    """Variance and squared bias of the K levels (k + 1/2)/K: the same levels in every set of draws.

    K divides S; a midpoint stands for the fine strata on both sides of it.
    """
    per_cell = len(m.square) // draws
    middle = torch.tensor([per_cell // 2 - 1, per_cell // 2] if per_cell % 2 == 0 else [per_cell // 2])
    places = (torch.arange(draws)[:, None] * per_cell + middle).flatten()
    own = m.square[places] - m.inner.diagonal()[places]
    bias = m.inner[places][:, places].mean() - 2 * m.inner[places].mean() + m.inner.mean()
    return float(own.mean()) / draws, float(bias)


def _places(m: Moments, draws: int) -> Tensor:
    """⟨m_s, m_t⟩ by cell and place in it, [K, S/K, K, S/K] → [S/K, K, S/K, K]."""
    per_cell = len(m.square) // draws
    return m.inner.view(draws, per_cell, draws, per_cell).permute(1, 0, 3, 2)


def cells(q: Tensor, count: int) -> Tensor:
    """Shares of the S fine strata in each of `count` cells of equal mass, [count, S], each row's sum 1."""
    ends = torch.cat([q.new_zeros(1), (q / q.sum()).cumsum(0)])
    ends[-1] = 1
    borders = torch.linspace(0, 1, count + 1, dtype=q.dtype)
    low = torch.maximum(ends[:-1], borders[:-1, None])
    high = torch.minimum(ends[1:], borders[1:, None])
    return (high - low).clamp(min=0) * count


def variances(
    single: Moments, pair: Moments, pilot: tuple[Moments, Moments], law: Tensor | None = None
) -> dict[tuple[str, int], float]:
    """Of every arm and K of one sample; of the fixed grid the mean squared error.

    Args:
        single, pair: of its draws, and of its pairs of opposite noises at one level.
        pilot: the same of other samples, of which proposals are made.
        law: of the level, [S] with mean 1; uniform in u without, and then systematic levels and a fixed grid
            are told, too, where four fine strata or more lie in a cell.
    """
    r = torch.ones_like(single.square) if law is None else law
    found: dict[tuple[str, int], float] = {}
    for k in (k for k in BUDGETS if law is None and 4 * k <= len(r)):
        found["systematic", k] = systematic(single, k)
        found["fixed grid", k] = sum(midpoints(single, k))
    single, pair, *pilot_moments = (m.under(r) for m in (single, pair, *pilot))
    importance_of, neyman_of = (
        {name: make(m, r) for name, m in zip(("single", "pair"), pilot_moments, strict=True)}
        for make in (importance, neyman)
    )
    for k in BUDGETS:
        found["iid", k] = iid(single, r, k)
        found["Strat", k] = stratified(single, r, k)
        found["IW", k] = iid(single, importance_of["single"], k)
        found["IW+Strat", k] = stratified(single, importance_of["single"], k)
        found["Neyman", k] = stratified(single, neyman_of["single"], k)
        if k > 1:
            found["pairs", k] = stratified(pair, r, k // 2)
            found["IW pairs", k] = stratified(pair, importance_of["pair"], k // 2)
    return found


def gains(measured: Sequence[Mapping[tuple[str, int], float]]) -> dict[tuple[str, int], Estimate]:
    """ECM over iid draws at equal K of every arm, from the variances of several samples: a ratio of their
    means, with an interval over the samples."""
    found = {}
    for arm, k in measured[0]:
        if arm != "iid":
            base, own = (mean_estimate([m[name, k] for m in measured]) for name in ("iid", arm))
            found[arm, k] = paired_ratio(base, own)
    return found
