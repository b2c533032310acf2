"""Whether a coupling of the noises helps a given pipeline: parity in ε, and a measured gate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from carv_distill.carv import NOISES, Chunk, NoiseLevelSampler, Proposal
from carv_distill.carv.random_numbers import draw_noise

from .estimate import Estimate, mean_estimate, paired_ratio, require_at_least
from .meter import VarianceMeter
from .pipeline import Pipeline, row_gradients, sample_residuals, sample_upstream


@dataclass(frozen=True)
class NoiseParity:
    """How the noise's variance splits into odd and even, and what the couplings make of it.

    With F(ε) = J(x)ᵀ 1/K Σ_k ω_k r(x, u_k, ε_k) at fixed x and u_1 … u_K,

        odd   F_o = (F(ε) − F(−ε))/2        E_x,u tr Cov_ε(F_o): antithetic pairs remove it
        even  F_e = (F(ε) + F(−ε))/2        E_x,u tr Cov_ε(F_e): antithetic pairs double it

    (to the extent that the two levels of a pair are alike). F_o and F_e are uncorrelated, so the two add up
    to the variance with iid noises. A factor is the variance with coupled noises over that with iid noises.
    What an objective adds to the residual is left out: it is constant given x.
    """

    odd: Estimate
    even: Estimate
    iid: Estimate
    """odd + even: the variance over ε of the K-average with iid noises."""
    factors: Mapping[str, Estimate]
    """Variance factor of each coupling but iid."""
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
        chunk: int | Chunk | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> NoiseParity:
        """Replicates of F over ε under each coupling, at `upstreams` samples with K levels each.

        Every upstream sample gives one unbiased term of each variance, all at its one x and its one set of
        levels, and the factors are ratios paired by upstream sample (:func:`paired_ratio`). Network
        calls: 4 · upstreams · noises · draws; backwards: 4 · upstreams · noises. Memory: a few vectors.

        Args:
            upstreams: at least 2.
            draws: K ≥ 2, as it is to be used: the factors depend on it.
            noises: replicates of the K noises, at least 2.
            strategy: of the K levels, see :class:`NoiseLevelSampler`.
            chunk: rows per call of the residual; `noises · draws` by default.

        The others as for :meth:`VarianceBudget.measure`.
        """
        require_at_least(2, upstreams=upstreams, draws=draws, noises=noises)
        sampler = NoiseLevelSampler(proposal or Proposal.uniform(), strategy)
        coupled = [name for name in NOISES if name != "iid"]
        terms: dict[str, list[float]] = {name: [] for name in ("odd", "even", "iid", *coupled)}
        for done in range(upstreams):
            sample = sample_upstream(pipeline, 1, generator)
            x, shape = sample.x, sample.noise_shape
            u, weight = (
                t.flatten().repeat(noises) for t in sampler.levels(1, draws, generator, dtype=x.dtype)
            )
            directions = []
            for coupling in ("iid", *coupled):
                eps = draw_noise(noises, draws, shape, coupling, generator, x.device, x.dtype)
                for signed in (eps, -eps) if coupling == "iid" else (eps,):
                    rows = sample_residuals(sample, u, weight, signed.flatten(0, 1), chunk)
                    directions.append(rows.view(noises, draws, *rows.shape[1:]).mean(1))
            # replicate by replicate, [noises, 2 + couplings, …]: ε, −ε, then those of each coupling
            together = torch.stack(directions, 1).flatten(0, 1)
            meters = {name: VarianceMeter() for name in ("even", *coupled)}
            odd, replicate = 0.0, []
            for gradient in row_gradients(x, together, parameters):
                replicate.append(gradient if project is None else project(gradient))
                if len(replicate) == len(directions):
                    plus, minus, *others = replicate
                    odd += ((plus - minus) / 2).double().square().sum().item() / noises
                    for meter, value in zip(meters.values(), ((plus + minus) / 2, *others), strict=True):
                        meter.update(value)
                    replicate = []
            terms["odd"].append(odd)
            terms["iid"].append(odd + meters["even"].variance)
            for name, meter in meters.items():
                terms[name].append(meter.variance)
            if progress is not None:
                progress(done + 1)
        odd_part, even, iid = (mean_estimate(terms[n], level, True, True) for n in ("odd", "even", "iid"))
        factors = {name: _factor(terms[name], iid, level) for name in coupled}
        return cls(odd_part, even, iid, factors, draws, upstreams)

    def gate(self, limit: float = 1.0) -> str:
        """The coupling to use: of those whose factor's interval ends below `limit` the one of least factor,
        "iid" where there is none."""
        sure = {name: f.value for name, f in self.factors.items() if f.high < limit}
        return min(sure, key=lambda name: sure[name]) if sure else "iid"


def _factor(terms: Sequence[float], iid: Estimate, level: float) -> Estimate:
    """The paired ratio; NaN where the noises make no variance, which passes no gate."""
    if iid.value <= 0:
        return Estimate(math.nan, math.nan, math.nan, math.nan)
    return paired_ratio(mean_estimate(terms, level), iid, level)
