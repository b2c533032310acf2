"""What a draw's gradient is like at each noise level, and the proposals that follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from carv_distill.carv import NOISES, Chunk, Proposal
from carv_distill.carv.random_numbers import draw_noise

from .estimate import require_at_least
from .meter import VarianceMeter
from .pipeline import Pipeline, row_gradients, sample_residuals, sample_upstream


@dataclass(frozen=True)
class NoiseLevelProfile:
    """Of the unweighted single-draw gradient g = J(x)ᵀ r(x, u, ε), in each of N equal bins of u:

        second_moment    E[‖g‖² | bin]
        noise_variance   E[tr Cov_ε(g | x, u) | bin]; of draws in antithetic pairs, 2 tr Cov of a pair's mean

    What an objective adds to the residual is left out: it is constant given x, and no proposal changes it.
    All are [N], float64, on the CPU; the standard errors are those of the spread over upstream samples.
    """

    second_moment: Tensor
    second_moment_se: Tensor
    noise_variance: Tensor
    noise_variance_se: Tensor
    upstreams: int
    """Independent upstream samples, each of which visited every bin."""

    @classmethod
    def measure(
        cls,
        pipeline: Pipeline,
        parameters: Sequence[Tensor],
        generator: torch.Generator,
        bins: int = 32,
        upstreams: int = 32,
        noises: int = 2,
        noise: str = "iid",
        project: Callable[[Tensor], Tensor] | None = None,
        chunk: int | Chunk | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> NoiseLevelProfile:
        """`upstreams` samples, each at one level in every bin, u_b ~ U[b/N, (b+1)/N), with `noises` noises.

        A bin's terms of one upstream sample are mean_j ‖g_j‖² and the sample variance of the g_j, both
        unbiased. Network calls and backwards: upstreams · bins · noises, twice as many with antithetic
        noises. Memory: a few vectors and O(bins), beside the residuals of one sample.

        Args:
            bins: N ≥ 1.
            upstreams, noises: at least 2 each.
            noise: iid | antithetic; with the latter each of the `noises` is a pair (ε, −ε) at one level, and
                the noise's variance that of draws so paired. A coupling of all K has no such groups.
            chunk: rows per call of the residual; all of a sample's by default.

        The others as for :meth:`VarianceBudget.measure`.

        Raises:
            ValueError: another coupling.
        """
        require_at_least(1, bins=bins)
        require_at_least(2, upstreams=upstreams, noises=noises)
        groups = {name: c.group for name, c in NOISES.items() if c.group}
        if noise not in groups:
            raise ValueError(f"noise must be {' or '.join(groups)}, found {noise!r}")
        group = groups[noise]
        prior, statistics = Proposal.uniform(bins), _Running(bins)
        for done in range(upstreams):
            sample = sample_upstream(pipeline, 1, generator)
            x = sample.x
            place = torch.rand(bins, generator=generator, device=x.device, dtype=torch.float64)
            v = place.add_(torch.arange(bins, device=x.device)).div_(bins)
            u = prior.sample(v, x.dtype)[0].repeat_interleave(noises * group)  # rounding never leaves the bin
            eps = draw_noise(bins, noises * group, sample.noise_shape, noise, generator, x.device, x.dtype)
            rows = sample_residuals(sample, u, torch.ones_like(u), eps.flatten(0, 1), chunk)
            gradients = row_gradients(x, rows, parameters)
            terms = torch.zeros(2, bins, dtype=torch.float64)
            for b in range(bins):
                meter = VarianceMeter()
                for _ in range(noises):
                    draws = [next(gradients) for _ in range(group)]
                    if project is not None:
                        draws = [project(g) for g in draws]
                    terms[0, b] += sum(g.double().square().sum().item() for g in draws) / (noises * group)
                    meter.update(torch.stack(draws).mean(0) if group > 1 else draws[0])
                terms[1, b] = group * meter.variance
            statistics.update(terms)
            if progress is not None:
                progress(done + 1)
        mean, se = statistics.mean, statistics.standard_error
        return cls(mean[0], se[0], mean[1], se[1], upstreams)

    def importance(self, defensive: float = 0.1) -> Proposal:
        """q ∝ √E‖g‖², mixed with the prior: the least variance for iid draws.

        Source: arXiv 2605.21489, section 3.
        """
        return Proposal.from_weights(self.second_moment.sqrt(), defensive)

    def neyman(self, defensive: float = 0.1) -> Proposal:
        """q ∝ √E tr Cov_ε(g | x, u), mixed with the prior: the least variance for strata per upstream sample.

        Fine strata leave no variance between levels, so K · Var → ∫ E tr Cov_ε(g | x, u)/q(u) du, and the
        least value of that is (∫ √(E tr Cov_ε) du)².

        Source: Neyman (1934), optimal allocation.
        """
        return Proposal.from_weights(self.noise_variance.sqrt(), defensive)


class _Running:
    """Mean and standard error of independent [2, N] terms by Welford's update."""

    def __init__(self, bins: int) -> None:
        self.count = 0
        self.mean = torch.zeros(2, bins, dtype=torch.float64)
        self._squares = torch.zeros_like(self.mean)

    def update(self, terms: Tensor) -> None:
        self.count += 1
        delta = terms - self.mean
        self.mean += delta / self.count
        self._squares += delta * (terms - self.mean)

    @property
    def standard_error(self) -> Tensor:
        return (self._squares / (self.count - 1) / self.count).sqrt()
