"""Variance of a gradient estimator from independent replicates, in float64, with intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from .estimate import Estimate, mean_estimate, normal_quantile, ratio, require_at_least

CPU_BLOCK, DEVICE_BLOCK = 2**17, 2**22
"""Numbers that are worked through at a time: on a CPU they stay in a core's cache."""
Combine = Callable[[Tensor], Tensor]
"""A sum over the entries of this process's part of a vector → over all of its entries."""


def _alone(value: Tensor) -> Tensor:
    return value


def _blocks(vector: Tensor) -> Iterable[Tensor]:
    """What is worked through at a time of a tensor of any shape, as views of it where it is contiguous."""
    block = CPU_BLOCK if vector.device.type == "cpu" else DEVICE_BLOCK
    return vector.detach().flatten().split(block)


class VarianceMeter:
    """Trace of the covariance of a random vector, by Welford's update over independent replicates.

    The i-th replicate adds d_i = ⟨g_i − m_{i−1}, g_i − m_i⟩ = ‖z_i‖² with the Helmert contrast
    z_i = √((i−1)/i) (g_i − m_{i−1}). Every d_i has expectation tr Cov(g), and for Gaussian g they are
    independent: so their mean is the usual unbiased variance, and their spread gives its interval
    without keeping the replicates (memory: one vector, and one number for each).

    Args:
        dtype: of the mean and of each block's sum; float32 is enough, and twice as fast, for a few
            replicates of a float32 gradient. Sums over blocks and replicates are float64 throughout.
        combine: adds up a sum over entries, a scalar, where several processes each have a part of the vector.

    Source: B. P. Welford (1962), Technometrics 4(3); Helmert contrasts: any text on linear models.
    """

    def __init__(self, dtype: torch.dtype = torch.float64, combine: Combine | None = None) -> None:
        self.count = 0
        self._dtype = dtype
        self._combine = combine or _alone
        self._mean: Tensor | None = None
        self._increments: list[float] = []

    def clear(self) -> None:
        """Forgets the replicates and keeps the memory for the next ones, of the same shape."""
        self.count = 0
        self._increments = []

    def update(self, vector: Tensor) -> float:
        """Adds one replicate, any shape; returns d_i (NaN for the first).

        Raises:
            ValueError: the vector's shape differs from that of the first replicate.
        """
        return self._add(_blocks(vector), vector.shape, vector.device)

    def _add(self, blocks: Iterable[Tensor], shape: torch.Size, device: torch.device) -> float:
        """One replicate of this shape, as :func:`_blocks` gives it."""
        if self._mean is None:
            self._mean = torch.empty(shape, dtype=self._dtype, device=device)
        if shape != self._mean.shape:
            raise ValueError(f"replicate of shape {list(shape)} after {list(self._mean.shape)}")
        self.count += 1
        # In place and block by block: a pass over memory costs more than the arithmetic.
        squared = torch.zeros((), dtype=torch.float64, device=device)
        for new, mean in zip(blocks, _blocks(self._mean), strict=True):
            if self.count == 1:
                mean.copy_(new)
                continue
            delta = new.to(self._dtype) - mean
            mean.add_(delta, alpha=1 / self.count)
            squared += torch.dot(delta, delta)
        if self.count == 1:
            return math.nan
        # ⟨g − m_old, g − m_new⟩ = ‖g − m_old‖² (i−1)/i
        increment = self._combine(squared).item() * (self.count - 1) / self.count
        self._increments.append(increment)
        return increment

    @property
    def mean(self) -> Tensor:
        """Sample mean, shape of the replicates; the next update changes it in place."""
        if self._mean is None or not self.count:
            raise ValueError("the meter has seen no replicate")
        return self._mean

    @property
    def variance(self) -> float:
        """Unbiased estimate of tr Cov(g) = E‖g − E g‖²."""
        self._require_two()
        return math.fsum(self._increments) / len(self._increments)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Confidence interval of the variance; (nan, nan) below three replicates."""
        estimate = self.estimate(level)
        return estimate.low, estimate.high

    def estimate(self, level: float = 0.95) -> Estimate:
        """The variance with standard error and interval.

        Raises:
            ValueError: fewer than two replicates.
        """
        self._require_two()
        return mean_estimate(self._increments, level, positive=True, skewed=True)

    def squared_norm(self, level: float = 0.95) -> Estimate:
        """‖E g‖² without the bias of ‖ḡ‖²: ‖ḡ‖² − Var/n, the mean of ⟨g_i, g_j⟩ over i ≠ j.

        Its variance is 4 μᵀΣμ/n + 2 tr Σ²/(n(n−1)). Here tr Σ² = ‖Σ‖_F² = Var(d_i)/2, as for Gaussian
        g, and μᵀΣμ ≤ ‖μ‖² ‖Σ‖_F with ‖μ‖² at least its own noise level: the interval is conservative for
        Gaussian or heavier tails in many dimensions, and holds 88 % in one at n = 16 (docs/method.md).
        Lighter tails make it too short: for g = ±1 the d_i hardly spread at all.
        """
        self._require_two()
        n = self.count
        value = self._combine(self.mean.square().sum()).item() - self.variance / n
        frobenius = math.sqrt(statistics.variance(self._increments) / 2) if n > 2 else math.nan
        noise = math.sqrt(2 / (n * (n - 1))) * frobenius
        se = math.sqrt(4 * max(value, noise) * frobenius / n + noise**2)
        half = normal_quantile((1 + level) / 2) * se
        return Estimate(value, se, value - half, value + half)

    def _require_two(self) -> None:
        if self.count < 2:
            raise ValueError(f"a variance needs at least two replicates, found {self.count}")


class PairedVariance:
    """Splits a variance into between and within upstream draws, from pairs that share the upstream.

    For pair j, g_j1 and g_j2 are two estimates with the same upstream draw and independent cheap draws.
    With a_j = (g_j1 + g_j2)/2 and w_j = ‖g_j1 − g_j2‖²/2,

        E w_j = V_within,    tr Cov(a) = V_between + V_within/2,    V_total = V_between + V_within.

    Here V_within is the variance of the whole estimate with its upstream held fixed, averaged over
    upstream draws.

    Args:
        combine: as for :class:`VarianceMeter`.
    """

    def __init__(self, combine: Combine | None = None) -> None:
        self._averages = VarianceMeter(combine=combine)
        self._combine = combine or _alone
        self._total: list[float] = []
        self._within: list[float] = []
        self._between: list[float] = []

    def update(self, first: Tensor, second: Tensor) -> None:
        """Adds one pair of replicates of the gradient, same shape, block by block: beyond them, memory is for
        the float64 mean."""
        squared = torch.zeros((), dtype=torch.float64, device=first.device)

        def averages() -> Iterator[Tensor]:
            for one, other in zip(_blocks(first), _blocks(second), strict=True):
                difference = one.double() - other
                squared.add_(torch.dot(difference, difference))
                yield other + difference / 2

        contrast = self._averages._add(averages(), first.shape, first.device)
        within = self._combine(squared).item() / 2
        self._within.append(within)
        if self._averages.count > 1:
            self._total.append(contrast + within / 2)
            self._between.append(contrast - within / 2)

    def total(self, level: float = 0.95) -> Estimate:
        """V_total, the variance of one estimate."""
        return self._mean(self._total, level)

    def within(self, level: float = 0.95) -> Estimate:
        """V_within, the variance with the upstream held fixed."""
        return self._mean(self._within, level)

    def between(self, level: float = 0.95) -> Estimate:
        """V_total − V_within; its estimate may fall below zero."""
        return self._mean(self._between, level, positive=False)

    def _mean(self, terms: list[float], level: float, positive: bool = True) -> Estimate:
        self._averages._require_two()
        return mean_estimate(terms, level, positive, skewed=True)

    def squared_norm(self, level: float = 0.95) -> Estimate:
        """‖E g‖², unbiased (see :meth:`VarianceMeter.squared_norm`)."""
        return self._averages.squared_norm(level)

    def signal_to_noise(self, level: float = 0.95) -> Estimate:
        """‖E g‖² / V_total."""
        return ratio(self.squared_norm(level), self.total(level), level)


def paired_variance(
    estimate: Callable[[int, int], Tensor], pairs: int, combine: Combine | None = None
) -> PairedVariance:
    """The variances of an estimate whose replicates are estimate(pair, half) for half = 0, 1.

    Args:
        estimate: the halves of a pair share the upstream draw, and nothing else.
        pairs: at least 2.
        combine: as for :class:`VarianceMeter`.
    """
    require_at_least(2, pairs=pairs)
    variance = PairedVariance(combine)
    for pair in range(pairs):
        variance.update(estimate(pair, 0), estimate(pair, 1))
    return variance
