"""Where a pipeline lies: whether reuse pays on it, and what would move it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .budget import VarianceBudget
from .cost import CostModel, best_whole_draws, largest_ecm
from .estimate import Estimate, paired_ratio
from .table import number, with_interval

PAYS = 1.5
"""Effective compute from which reuse is worth a change of settings."""


@dataclass(frozen=True)
class Regime:
    """A pipeline's place: by the variance of a single draw within an upstream sample over that between them,
    ρ = W/B, and by what an upstream sample costs in draws, κ.

        ECM(K) = (1 + ρ)(κ′ + 1) / ((1 + ρ/K)(κ′ + K)),

    of iid draws, κ′ = κ + (calls/draw)/R; strata and importance come on top of it.
    """

    within_over_between: Estimate | None
    """Paired over upstream samples: what a sample adds to one it takes from the other. None where the part
    between samples is not told from 0."""
    kappa: float
    calls: float
    """Of a gradient, in draws; its R samples share them."""
    upstream: int
    """R."""
    gain: float
    """The greatest ECM(K), over whole K ≥ 1: at least 1."""
    whole: float
    """The same by the seconds of an iteration at this R, with all that it does besides its gradient."""
    draws: float
    """Where that is; infinite where nothing lies between upstream samples."""

    @classmethod
    def of(cls, budget: VarianceBudget, cost: CostModel, upstream: int) -> Regime:
        """From what was measured, at R samples."""
        between, within, there = budget.between.value, budget.within.value, cost.at(upstream)
        seen = budget.between.low > 0 and budget.within.value > 0
        whole = replace(cost, calls=cost.fixed, other=0.0).at(upstream)
        return cls(
            paired_ratio(budget.within, budget.between) if seen else None,
            cost.kappa,
            cost.calls / cost.draw,
            upstream,
            largest_ecm(between, within, there),
            largest_ecm(between, within, whole),
            best_whole_draws(between, within, there),
        )

    def sentences(self) -> list[str]:
        """The place, the gain to expect, and what would move it."""
        draws = f"about {self.draws:.0f}" if self.draws != float("inf") else "as many as time allows"
        if self.within_over_between is None:
            share = "the variance between upstream samples is not told from 0"
        else:
            share = f"W/B = {with_interval(self.within_over_between, '.3g')}"
        place = f"Its place: {share}, and an upstream sample costs κ = {number(self.kappa)} draws"
        alone = "Reuse alone"
        if self.calls:
            alone = f"At R = {self.upstream} reuse alone"
            place += f", plus {number(self.calls)} that all samples share"
        besides = ""
        if f"{self.whole:.2f}" != f"{self.gain:.2f}":
            besides = f" ({self.whole:.2f} × by an iteration's seconds)"
        if self.gain >= PAYS:
            gain = f"{alone} can give {self.gain:.1f} × the gradients of K = 1, at {draws} draws{besides}."
            return [f"{place}. {gain}"]
        shared = self.kappa + self.calls / self.upstream
        if self.within_over_between is not None and self.within_over_between.value < shared:
            moves = (
                "W/B is what is small: a teacher with more entropy given its condition, or what is random in "
                "an upstream sample drawn anew with every draw, would raise it"
            )
        else:
            moves = "κ is what is small: cheaper draws, or dearer upstream samples, would raise it"
        gain = (
            f"{alone} can give {self.gain:.2f} × the gradients of K = 1{besides}: it is not where reuse pays."
        )
        return [f"{place}. {gain} {moves}."]
