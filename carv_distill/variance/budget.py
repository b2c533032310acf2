"""Where a gradient's variance comes from: upstream samples, noise levels, noises."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from carv_distill.carv import Chunk, Proposal, Upstream

from .estimate import Estimate, mean_estimate, require_at_least
from .meter import VarianceMeter
from .pipeline import Pipeline, constant_gradient, row_gradients, sample_residuals, sample_upstream


@dataclass(frozen=True)
class VarianceBudget:
    """The variance of a single draw's gradient g = J(x)ᵀ ω r(x, u, ε), as traces of covariances:

        between       tr Cov_x  E[g | x]              what only more upstream samples lower
        within_level  E_x tr Cov_u  E[g | x, u]       what stratified noise levels remove
        within_noise  E_x,u tr Cov_ε (g | x, u)       what couplings of the noise lower

    Their sum is the variance at R = K = 1. For iid draws V(R, K) = between/R + (level + noise)/(R K). What
    an objective adds to the residual, a push and a penalty, is the upstream sample's: it counts in `between`
    and in the squared norm; a push whose noise levels are stratified over the R samples adds less than
    between/R says. A clip is left out, as what it does to a mean is no sum over draws.
    """

    between: Estimate
    within_level: Estimate
    within_noise: Estimate
    within: Estimate
    """within_level + within_noise, with the interval of the sum."""
    total: Estimate
    """The sum of all three. The i-th terms of `between`, `within` and `total` are of the same upstream
    sample."""
    squared_norm: Estimate
    """‖E g‖²."""
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
        levels: int = 4,
        noises: int = 2,
        project: Callable[[Tensor], Tensor] | None = None,
        level: float = 0.95,
        chunk: int | Chunk | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> VarianceBudget:
        """Nested replicates: `upstreams` samples, at each `levels` noise levels, at each `noises` noises.

        With n levels and m noises, the means over m and over n·m draws give the unbiased components of
        a nested analysis of variance:

            s = mean_j var_k(g_jk)                    E s = within_noise
            l = var_j(ḡ_j) − s/m                      E l = within_level
            c − var_j(ḡ_j)/n                          its expectation is between

        with c the upstream means' Helmert contrast (see :class:`VarianceMeter`). Every upstream sample
        gives one term of each, and the intervals come from the spread of the terms. Memory: a few vectors.

        Args:
            pipeline: see :data:`Pipeline`; called with one sample at a time.
            parameters: differentiate by these; pass some of a network's to look at those alone, and none
                where the residual is the gradient.
            generator: of everything that is drawn.
            proposal: q of the noise levels; uniform by default.
            upstreams, levels, noises: at least 2 each.
            project: a linear map of the gradient that keeps squared norms, as :class:`CountSketch`.
            level: of the intervals.
            chunk: rows per call of the residual; all of a sample's by default.
            progress: called with the number of finished upstream samples.

        Source: Searle, Casella, McCulloch, Variance Components (1992), chapter 3.
        """
        require_at_least(2, upstreams=upstreams, levels=levels, noises=noises)
        proposal = proposal or Proposal.uniform()
        terms: dict[str, list[float]] = {name: [] for name in ("between", "level", "noise", "within")}
        dtype, buffer = torch.float64, None
        if parameters:
            dtype = torch.promote_types(parameters[0].dtype, torch.float32)
            buffer = torch.cat([p.detach().flatten() for p in parameters])
        means, per_level, per_noise = VarianceMeter(), VarianceMeter(dtype), VarianceMeter(dtype)
        for done in range(upstreams):
            per_level.clear()
            noise = 0.0
            sample = sample_upstream(pipeline, 1, generator)
            rows = _single_draws(sample, generator, proposal, levels, noises, chunk)
            constant = constant_gradient(sample, generator, parameters)
            gradients = row_gradients(sample.x, rows, parameters, buffer)
            for _ in range(levels):
                per_noise.clear()
                for _ in range(noises):
                    g = next(gradients)
                    per_noise.update(g if project is None else project(g))
                per_level.update(per_noise.mean)
                noise += per_noise.variance / levels
            of_level = per_level.variance - noise / noises
            terms["noise"].append(noise)
            terms["level"].append(of_level)
            terms["within"].append(noise + of_level)
            mean = per_level.mean
            if constant is not None:
                mean = mean + (constant if project is None else project(constant))
            contrast = means.update(mean)
            if done:
                terms["between"].append(contrast - per_level.variance / levels)
            if progress is not None:
                progress(done + 1)
        # the first sample has no contrast to others before it; its part of the mean is dealt over them
        own, *others = terms["within"]
        within = [t + (own - math.fsum(others) / len(others)) / upstreams for t in others]
        total = [sum(both) for both in zip(terms["between"], within, strict=True)]
        return cls(
            between=mean_estimate(terms["between"], level, skewed=True),
            within_level=mean_estimate(terms["level"], level, skewed=True),
            within_noise=mean_estimate(terms["noise"], level, positive=True, skewed=True),
            within=mean_estimate(within, level, skewed=True),
            total=mean_estimate(total, level, positive=True, skewed=True),
            squared_norm=means.squared_norm(level),
            upstreams=upstreams,
        )

    def variance(self, upstream: int, draws: int) -> float:
        """V(R, K) of iid draws; a negative estimate of a component counts as zero."""
        require_at_least(1, upstream=upstream, draws=draws)
        return (max(self.between.value, 0.0) + max(self.within.value, 0.0) / draws) / upstream


def _single_draws(
    sample: Upstream,
    generator: torch.Generator,
    proposal: Proposal,
    levels: int,
    noises: int,
    chunk: int | Chunk | None,
) -> Tensor:
    """Weighted residuals of one upstream sample's single draws, level by level."""
    x = sample.x
    v = torch.rand(levels, generator=generator, device=x.device, dtype=torch.float64)
    u, weight = (t.repeat_interleave(noises) for t in proposal.sample(v, x.dtype))
    shape = (levels * noises, *sample.noise_shape)
    eps = torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)
    return sample_residuals(sample, u, weight, eps, chunk)
