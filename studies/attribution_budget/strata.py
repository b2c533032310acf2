"""Every sampler's variance at every K from one set of draws: two in each of S fine strata of the level.

Of a sample let g(u, ε) be a draw's gradient (or the mean of a pair of opposite noises), and in stratum s of S
equal ones m_s = E g, e_s = E‖g‖². From two independent draws in each,

    e_s ≈ (‖g_s1‖² + ‖g_s2‖²)/2,  ‖m_s‖² ≈ ⟨g_s1, g_s2⟩,  ⟨m_s, m_t⟩ ≈ mean of the four ⟨g_si, g_tj⟩ for s ≠ t

without bias. A sampler with K draws has them in cells with shares a_ks of the fine strata, Σ_s a_ks = 1, and
importance weights ω_s; where the level hardly matters within a fine stratum its variance is

    Var = 1/K² Σ_k [ Σ_s a_ks ω_s² e_s − ‖Σ_s a_ks ω_s m_s‖² ].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from carv_distill.variance import Estimate, mean_estimate, paired_ratio

BUDGETS = (1, 2, 4, 8, 16, 32, 64)
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

    @property
    def level(self) -> float:
        """V_level = E‖m_s − m‖²."""
        return float(self.inner.diagonal().mean() - self.inner.mean())

    @property
    def noise(self) -> float:
        """V_noise = E‖g − m_s‖²."""
        return float((self.square - self.inner.diagonal()).mean())


def averaged(moments: list[Moments]) -> Moments:
    """The mean over samples, of which a proposal is made."""
    return Moments(
        torch.stack([m.square for m in moments]).mean(0), torch.stack([m.inner for m in moments]).mean(0)
    )


def importance(m: Moments) -> Tensor:
    """q ∝ √E‖g‖² over the strata, [S] with mean 1: the best density of independent draws."""
    return _mixed(m.square.clamp(min=0).sqrt())


def neyman(m: Moments) -> Tensor:
    """q ∝ √(E‖g‖² − ‖m‖²): the best of many strata."""
    return _mixed((m.square - m.inner.diagonal()).clamp(min=0).sqrt())


def _mixed(weight: Tensor) -> Tensor:
    return (1 - DEFENSIVE) * weight / weight.mean() + DEFENSIVE


def iid(m: Moments, q: Tensor, draws: int) -> float:
    """Variance of K independent draws of density q."""
    return float((m.square / q).mean() - m.inner.mean()) / draws


def stratified(m: Moments, q: Tensor, draws: int) -> float:
    """Variance of one draw in each of K cells of equal mass of q."""
    shares = cells(q, draws)
    weighted = shares / q
    mean_squares = torch.einsum("ks,st,kt->k", weighted, m.inner, weighted)
    return float(((shares / q.square()) @ m.square - mean_squares).sum()) / draws**2


def cells(q: Tensor, count: int) -> Tensor:
    """Shares of the S fine strata in each of `count` cells of equal mass, [count, S], each row's sum 1."""
    ends = torch.cat([q.new_zeros(1), (q / q.sum()).cumsum(0)])
    ends[-1] = 1
    borders = torch.linspace(0, 1, count + 1, dtype=q.dtype)
    low = torch.maximum(ends[:-1], borders[:-1, None])
    high = torch.minimum(ends[1:], borders[1:, None])
    return (high - low).clamp(min=0) * count


def variances(single: Moments, pair: Moments, pilot: tuple[Moments, Moments]) -> dict[tuple[str, int], float]:
    """Of every arm and K of one sample.

    Args:
        single, pair: of its draws, and of its pairs of opposite noises at one level.
        pilot: the same of other samples, of which proposals are made.
    """
    uniform = torch.ones_like(single.square)
    importance_of, neyman_of = (
        {name: make(m) for name, m in zip(("single", "pair"), pilot, strict=True)}
        for make in (importance, neyman)
    )
    found: dict[tuple[str, int], float] = {}
    for k in BUDGETS:
        found["iid", k] = iid(single, uniform, k)
        found["Strat", k] = stratified(single, uniform, k)
        found["IW", k] = iid(single, importance_of["single"], k)
        found["IW+Strat", k] = stratified(single, importance_of["single"], k)
        found["Neyman", k] = stratified(single, neyman_of["single"], k)
        if k > 1:
            found["pairs", k] = stratified(pair, uniform, k // 2)
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
