"""The density q(u) from which noise levels are drawn."""

from __future__ import annotations

import torch
from torch import Tensor


class Proposal:
    """A piecewise-constant density q on [0, 1), over N equal bins of u.

    The prior p is uniform in u: a noise schedule maps u to a noise level, and any prior over levels is
    folded into that map. So the importance weight is ω(u) = p(u)/q(u) = 1/q(u), and the inverse CDF
    Q⁻¹ is piecewise linear. With N discrete timesteps and N bins, q is exact on the timesteps.

    Args:
        mass: probability of each bin, shape [N], non-negative, summing to 1.

    Source: importance sampling and stratified inverse CDF, arXiv 2605.21489, section 3.
    """

    def __init__(self, mass: Tensor) -> None:
        self.mass = _check_weights(mass)
        self._cdf = torch.cumsum(self.mass, 0)
        self._cdf /= self._cdf[-1].clone()
        self._last = int(self.mass.nonzero()[-1])
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    @classmethod
    def uniform(cls, bins: int = 1000) -> Proposal:
        """q = p: every weight is 1."""
        if bins < 1:
            raise ValueError(f"bins must be at least 1, found {bins}")
        return cls(torch.full((bins,), 1 / bins, dtype=torch.float64))

    @classmethod
    def from_weights(cls, w: Tensor, defensive: float = 0.0) -> Proposal:
        """q ∝ (1−α)·w/Σw + α/N on N equal bins of u.

        Args:
            w: relative weight of each bin, shape [N], finite, w ≥ 0, not all zero.
            defensive: α in [0, 1]; α > 0 bounds the importance weights by 1/α. At α = 0 a zero weight
                leaves its bin out, and with it that part of the objective.

        Raises:
            ValueError: w has the wrong shape, a negative, NaN or infinite entry, or only zeros; α is
                outside [0, 1].
        """
        if not 0 <= defensive <= 1:
            raise ValueError(f"defensive must lie in [0, 1], found {defensive}")
        w = _check_weights(w)
        return cls((1 - defensive) * w + defensive / w.numel())

    @property
    def bins(self) -> int:
        """N, the number of equal bins of u."""
        return self.mass.numel()

    def icdf(self, v: Tensor) -> Tensor:
        """Q⁻¹(v): v in [0, 1) → u in [0, 1), any shape. Bins without mass are never reached."""
        return self.sample(v)[0]

    def weight(self, u: Tensor) -> Tensor:
        """ω(u) = 1/q(u), same shape as u; infinite where q has no mass."""
        _, _, weight = self._table(u)
        return weight[(u * self.bins).long().clamp_(0, self.bins - 1)]

    def sample(self, v: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """(Q⁻¹(v), ω(Q⁻¹(v))) in one look-up: the weight is that of the bin v fell into, whatever the
        rounding of u.

        Args:
            v: probabilities in [0, 1), any shape, float32 or float64. In float32 they are multiples of
                2⁻²⁴, which a bin of much smaller mass rarely or never meets: prefer float64.
            dtype: of the result; that of v by default.
        """
        dtype = v.dtype if dtype is None else dtype
        cdf, left, weight = self._table(v)
        index = torch.searchsorted(cdf, v, right=True).clamp_(max=self._last)
        weight_v = weight[index]
        # The place inside the bin, (v − Q(left edge))/mass. It is kept off the edges by a few rounding
        # errors, so that u·N always truncates to this bin and a discrete timestep is never mistaken.
        edge = 4 * self.bins * torch.finfo(dtype).eps
        place = ((v - left[index]) * (weight_v * self.bins)).clamp_(edge, 1 - edge)
        return place.add_(index).div_(self.bins).to(dtype), weight_v.to(dtype)

    def _table(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(cdf at the right edges, cdf at the left edges, weight), once per device and dtype."""
        key = (like.device, like.dtype)
        if key not in self._tables:
            left = torch.cat([self._cdf.new_zeros(1), self._cdf[:-1]])
            weight = 1 / (self.mass * self.bins)
            self._tables[key] = tuple(t.to(like) for t in (self._cdf, left, weight))
        cdf, left, weight = self._tables[key]
        return cdf, left, weight


def _check_weights(w: Tensor) -> Tensor:
    """Normalised float64 copy of w on the CPU, or a ValueError that says what is wrong with it."""
    w = torch.as_tensor(w, dtype=torch.float64, device="cpu")
    if w.ndim != 1 or w.numel() == 0:
        raise ValueError(f"weights must have shape [N] with N ≥ 1, found {list(w.shape)}")
    if not torch.isfinite(w).all():
        raise ValueError("weights must be finite, found NaN or infinity")
    if (w < 0).any():
        raise ValueError(f"weights must be non-negative, found {w.min().item():g}")
    if w.sum() == 0:
        raise ValueError("weights must not all be zero")
    return w / w.sum()
