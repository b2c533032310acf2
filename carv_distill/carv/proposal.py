"""The density q(u) from which noise levels are drawn."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MOST_BUCKET_BITS = 16


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
        # Buckets no wider than the least mass: a defensive share α makes that at least α/N.
        least = self.mass[self.mass > 0].min().item()
        self._buckets = 1 << min(_MOST_BUCKET_BITS, math.ceil(-math.log2(least)))
        self._guides: dict[torch.dtype, tuple[Tensor, Tensor, Tensor | None]] = {}

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
            dtype: of the result, that of v by default; float32 where that is less, which could not tell bins
                apart.
        """
        dtype = torch.promote_types(v.dtype if dtype is None else dtype, torch.float32)
        _, left, weight = self._table(v)
        index = self._locate(v).clamp_(max=self._last)
        # index_select is several times faster than indexing, which is the same thing for one dimension
        left_v, weight_v = (t.index_select(0, index.flatten()).view_as(v) for t in (left, weight))
        # The place inside the bin, (v − Q(left edge))/mass. It is kept off the edges by a few rounding
        # errors, so that u·N always truncates to this bin and a discrete timestep is never mistaken.
        edge = 4 * self.bins * torch.finfo(dtype).eps
        place = ((v - left_v) * (weight_v * self.bins)).clamp_(edge, 1 - edge)
        return place.add_(index).div_(self.bins).to(dtype), weight_v.to(dtype)

    def _locate(self, v: Tensor) -> Tensor:
        """How many right edges of the CDF are ≤ v, as torch.searchsorted(cdf, v, right=True) gives.

        Many v on a CPU look their bucket ⌊v·M⌋ up instead of bisecting: where a bucket has at most one edge
        inside, one comparison is left; the few v in more crowded buckets are searched for. M is a power of
        two, so v·M is exact and so is the result.

        Source: the cutpoint method, Chen and Asau (1974).
        """
        cdf = self._table(v)[0]
        # the guide costs one search for each bucket, so it is made only where it pays at once
        if v.device.type != "cpu" or v.numel() < self._buckets // 4:
            return torch.searchsorted(cdf, v, right=True)
        below, beyond, crowded = self._guide(cdf)
        flat = v.flatten()
        bucket = (flat * self._buckets).long().clamp_(0, self._buckets - 1)
        index = below.index_select(0, bucket)
        above = flat >= cdf.index_select(0, index)
        index = torch.where(above, beyond.index_select(0, index), index)
        if crowded is not None:
            rest = crowded.index_select(0, bucket).nonzero()[:, 0]
            index[rest] = torch.searchsorted(cdf, flat[rest], right=True)
        return index.view_as(v)

    def _guide(self, cdf: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(edges at or below each bucket's left end [M], edges at or below each edge [N], which buckets have
        more than one different edge inside [M], or None if there are none)."""
        if cdf.dtype not in self._guides:
            ends = torch.arange(self._buckets + 1, dtype=cdf.dtype) / self._buckets
            edges = cdf.unique()  # bins without mass repeat one
            inside = torch.searchsorted(edges, ends[1:]) - torch.searchsorted(edges, ends[:-1], right=True)
            below = torch.searchsorted(cdf, ends[:-1], right=True)
            beyond = torch.searchsorted(cdf, cdf, right=True)
            crowded = inside > 1
            self._guides[cdf.dtype] = below, beyond, crowded if crowded.any() else None
        return self._guides[cdf.dtype]

    def _table(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(cdf at the right edges, cdf at the left edges, weight), once per device and dtype."""
        key = (like.device, like.dtype)
        if key not in self._tables:
            left = torch.cat([self._cdf.new_zeros(1), self._cdf[:-1]])
            weight = 1 / (self.mass * self.bins)
            # non_blocking: a proposal that is made anew at every step holds up no device
            tables = (t.to(like.dtype) for t in (self._cdf, left, weight))
            self._tables[key] = tuple(t.to(like.device, non_blocking=True) for t in tables)
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
