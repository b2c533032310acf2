"""Whether a coupling of the noises helps a given pipeline: parity in ε, and a measured gate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from carv_distill.carv import NOISES, NoiseLevelSampler, Proposal
from carv_distill.carv.couplings import draw_noise

from .estimate import Estimate, mean_estimate, paired_ratio
from .meter import VarianceMeter
from .pipeline import Pipeline, row_gradients, sample_residuals


def hermite_factor(coupling: str, degree: int, draws: int) -> float:
    """Var of the K-average with coupled noises over Var with iid ones, for a Hermite component of degree m:

        antithetic   1 + (−1)^m                      (odd K: the unpaired draw leaves 1 + (−1)^m (K−1)/K)
        zero_sum     1 + (K−1) (−1/(K−1))^m
        iid, K = 1   1

    All draws at one noise level; of several coordinates, m is the total degree.

    Raises:
        ValueError: an unknown coupling, m < 1 or K < 1.

    Source: Corr(He_m(ε), He_m(ε')) = ρ^m for jointly normal ε, ε' of correlation ρ (Mehler).
    """
    if coupling not in NOISES:
        raise ValueError(f"coupling must be one of {', '.join(NOISES)}; found {coupling!r}")
    if degree < 1 or draws < 1:
        raise ValueError(f"degree and draws must be at least 1, found {degree} and {draws}")
    if coupling == "iid" or draws == 1:
        return 1.0
    if coupling == "antithetic":
        return 1 + (-1) ** degree * (draws - draws % 2) / draws
    return float(1 + (draws - 1) * (-1 / (draws - 1)) ** degree)


@dataclass(frozen=True)
class NoiseParity:
    """How the noise's variance splits into odd and even, and what the couplings make of it.

    With F(ε) = J(x)ᵀ 1/K Σ_k ω_k r(x, u_k, ε_k) at fixed x and u_1 … u_K,

        odd   F_o = (F(ε) − F(−ε))/2        E_x,u tr Cov_ε(F_o): antithetic pairs remove it
        even  F_e = (F(ε) + F(−ε))/2        E_x,u tr Cov_ε(F_e): antithetic pairs double it

    (to the extent that the two levels of a pair are alike). F_o and F_e are uncorrelated, so the two add up
    to the variance with iid noises. A factor is the variance with coupled noises over that with iid noises.
    """

    odd: Estimate
    even: Estimate
    iid: Estimate
    """odd + even: the variance over ε of the K-average with iid noises."""
    antithetic: Estimate
    """Variance factor of antithetic pairs."""
    zero_sum: Estimate
    """Variance factor of zero-sum noises."""
    draws: int
    """K."""
    upstreams: int
    """Independent upstream samples behind the intervals."""

    @classmethod
    def measure(
        cls,
        pipeline: Pipeline,
        parameters: Sequence[Tensor],
        generator: torch.Generator,
        proposal: Proposal | None = None,
        upstreams: int = 32,
        draws: int = 4,
        noises: int = 2,
        strategy: str = "stratified",
        project: Callable[[Tensor], Tensor] | None = None,
        level: float = 0.95,
        chunk: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> NoiseParity:
        """Replicates of F over ε under each coupling, at `upstreams` samples with K levels each.

        Every upstream sample gives one unbiased term of each variance, all at its one x and its one set of
        levels, and the factors are ratios paired by upstream sample (:func:`paired_ratio`). Network calls:
        4 · upstreams · noises · draws; backwards: 4 · upstreams · noises. Memory: a few vectors.

        Args:
            pipeline: see :data:`Pipeline`; called with one sample at a time.
            parameters: differentiate by these.
            generator: of everything that is drawn.
            proposal: q of the noise levels; uniform by default.
            upstreams: at least 2.
            draws: K ≥ 2, as it is to be used: the factors depend on it.
            noises: replicates of the K noises, at least 2.
            strategy: of the K levels, see :class:`NoiseLevelSampler`.
            project: a linear map of the gradient that keeps squared norms, as :class:`CountSketch`.
            level: of the intervals.
            chunk: rows per call of the residual; `noises · draws` by default.
            progress: called with the number of finished upstream samples.

        Raises:
            ValueError: upstreams, draws or noises below 2, an unknown strategy.
        """
        for name, count in (("upstreams", upstreams), ("draws", draws), ("noises", noises)):
            if count < 2:
                raise ValueError(f"{name} must be at least 2, found {count}")
        sampler = NoiseLevelSampler(proposal or Proposal.uniform(), strategy)
        terms: dict[str, list[float]] = {
            name: [] for name in ("odd", "even", "both", "antithetic", "zero_sum")
        }
        for done in range(upstreams):
            x, residual = pipeline(1, generator)
            u, weight = (
                t.flatten().repeat(noises) for t in sampler.levels(1, draws, generator, dtype=x.dtype)
            )
            directions = []
            for coupling in NOISES:
                eps = draw_noise(noises, draws, x.shape[1:], coupling, generator, x.device, x.dtype)
                for signed in (eps, -eps) if coupling == "iid" else (eps,):
                    rows = sample_residuals(residual, x, u, weight, signed.flatten(0, 1), chunk)
                    directions.append(rows.view(noises, draws, *rows.shape[1:]).mean(1))
            # replicate by replicate, [noises, 4, …]: ε, −ε, antithetic, zero-sum
            together = torch.stack(directions, 1).flatten(0, 1)
            meters = [VarianceMeter() for _ in range(3)]
            odd, replicate = 0.0, []
            for gradient in row_gradients(x, together, parameters):
                replicate.append(gradient if project is None else project(gradient))
                if len(replicate) == 4:
                    plus, minus, antithetic, zero_sum = replicate
                    odd += ((plus - minus) / 2).double().square().sum().item() / noises
                    for meter, value in zip(meters, ((plus + minus) / 2, antithetic, zero_sum), strict=True):
                        meter.update(value)
                    replicate = []
            terms["odd"].append(odd)
            terms["even"].append(meters[0].variance)
            terms["both"].append(odd + meters[0].variance)
            terms["antithetic"].append(meters[1].variance)
            terms["zero_sum"].append(meters[2].variance)
            if progress is not None:
                progress(done + 1)
        iid = mean_estimate(terms["both"], level, positive=True)
        return cls(
            odd=mean_estimate(terms["odd"], level, positive=True),
            even=mean_estimate(terms["even"], level, positive=True),
            iid=iid,
            antithetic=_factor(terms["antithetic"], iid, level),
            zero_sum=_factor(terms["zero_sum"], iid, level),
            draws=draws,
            upstreams=upstreams,
        )

    @property
    def even_share(self) -> float:
        """even/(odd + even): 0 for an odd residual, 1 for an even one, NaN without any noise."""
        return self.even.value / self.iid.value if self.iid.value > 0 else math.nan

    def gate(self, limit: float = 1.0) -> str:
        """The coupling to use: of those whose factor's interval ends below `limit` the one of least factor,
        "iid" where there is none."""
        factors = {"antithetic": self.antithetic, "zero_sum": self.zero_sum}
        sure = {name: f.value for name, f in factors.items() if f.high < limit}
        return min(sure, key=lambda name: sure[name]) if sure else "iid"


def _factor(terms: Sequence[float], iid: Estimate, level: float) -> Estimate:
    """The paired ratio; NaN where the noises make no variance, which passes no gate."""
    if iid.value <= 0:
        return Estimate(math.nan, math.nan, math.nan, math.nan)
    return paired_ratio(mean_estimate(terms, level), iid, level)
