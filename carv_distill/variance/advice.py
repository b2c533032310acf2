"""Which R and K to use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from .cost import CostModel


class VarianceModel(Protocol):
    """Anything that predicts the variance of a gradient: :class:`VarianceBudget`, :class:`MeasuredWithin`."""

    def variance(self, upstream: int, draws: int) -> float:
        """V(R, K)."""
        ...


@dataclass(frozen=True)
class MeasuredWithin:
    """V(R, K) = (between + within(K))/R from the upstream-fixed variances measured at some K.

    What stratified draws need, as their within(K) is not ∝ 1/K. Between measured K it is interpolated as a
    power law; beyond the largest it goes on as 1/K, which stratification can only beat. Below the smallest
    nothing is known. Strata over all samples (`nested`, `global`) make within(K) fall with R as well, and
    upstream samples that are spread over the batch, as Sobol cameras, V_between: at more samples than were
    measured both are lower than said here, and at fewer nothing is known.

    Args:
        between: R V_between at the R that was measured, of independent samples that of one.
        within: K → the same of the variance of the K-draw averages with the upstream held fixed.
        least_upstream: the R that was measured, where the variance does not go as 1/R.

    Raises:
        ValueError: nothing measured, K < 1, or a variance that is not finite and positive.
    """

    between: float
    within: Mapping[int, float]
    least_upstream: int = 1

    def __post_init__(self) -> None:
        if not self.within:
            raise ValueError("within holds no measured K")
        for k, v in self.within.items():
            if k < 1 or not 0 < v < math.inf:
                raise ValueError(f"within[{k}] = {v}: K must be at least 1 and the variance positive")

    def variance(self, upstream: int, draws: int) -> float:
        """V(R, K).

        Raises:
            ValueError: fewer samples or draws than were measured.
        """
        if upstream < self.least_upstream:
            raise ValueError(f"R = {upstream} is below the smallest one measured, {self.least_upstream}")
        return (max(self.between, 0.0) + self._within(draws)) / upstream

    def _within(self, draws: int) -> float:
        known = sorted(self.within)
        if draws < known[0]:
            raise ValueError(f"K = {draws} is below the smallest one measured, {known[0]}")
        below = max(k for k in known if k <= draws)
        above = min((k for k in known if k >= draws), default=None)
        if above is None:
            return self.within[below] * below / draws
        if below == above:
            return self.within[below]
        share = math.log(draws / below) / math.log(above / below)
        return self.within[below] ** (1 - share) * self.within[above] ** share


@dataclass(frozen=True)
class Advice:
    """The integers (R, K) of least variance × cost, with what they are predicted to give."""

    upstream: int
    draws: int
    variance: float
    cost: float
    ecm: float
    """Against the baseline: at equal variance, how many times less compute."""
    baseline: tuple[int, int]


def advise(
    model: VarianceModel,
    cost: CostModel,
    max_cost: float | None = None,
    baseline: tuple[int, int] = (1, 1),
    baseline_model: VarianceModel | None = None,
    draws: Sequence[int] = range(1, 65),
    least_upstream: int = 1,
) -> Advice:
    """Searches all the given K, and for each the R that the budget allows.

    Without fixed costs (`other` and `calls`) V·c does not depend on R: then the least R unless the budget is
    to be used up. With them a larger R always pays, so a budget is needed.

    Args:
        max_cost: of one iteration, in the unit of `cost`; None allows only the least R, and needs costs
            without a fixed part.
        baseline: (R, K) that the predicted ECM is against.
        baseline_model: variance of the baseline's sampler; `model` by default.
        draws: every K that is tried.
        least_upstream: the smallest R that is tried.

    Raises:
        ValueError: a budget that does not pay for the smallest R and K, or none although `cost.fixed` > 0.
    """
    if max_cost is None and cost.fixed > 0:
        raise ValueError("max_cost is needed where an iteration has fixed costs: more upstream always pays")
    choices = []
    for k in draws:
        paid = float(least_upstream)
        if max_cost is not None:
            paid = (max_cost - cost.fixed) / (cost.sample + k * cost.draw)
        upstream = math.floor(paid * (1 + 1e-9))  # rounding must not exclude what costs exactly max_cost
        if upstream >= least_upstream:
            choices.append((model.variance(upstream, k) * cost(upstream, k), -upstream, k))
    if not choices:
        least = least_upstream, min(draws)
        raise ValueError(
            f"max_cost = {max_cost} does not pay for R = {least[0]}, K = {least[1]}: {cost(*least):g}"
        )
    _, negative, best = min(choices)
    upstream = -negative
    variance, spent = model.variance(upstream, best), cost(upstream, best)
    base = (baseline_model or model).variance(*baseline) * cost(*baseline)
    return Advice(upstream, best, variance, spent, base / (variance * spent), baseline)
