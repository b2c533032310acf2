"""What a draw's gradient is like at each noise level, and the proposals that follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from carv_distill.carv import Proposal
from carv_distill.carv.couplings import draw_noise

from .meter import VarianceMeter
from .pipeline import Pipeline, row_gradients, sample_residuals


@dataclass(frozen=True)
class NoiseLevelProfile:
    """Of the unweighted single-draw gradient g = J(x)ᵀ r(x, u, ε), in each of N equal bins of u:

        second_moment    E[‖g‖² | bin]
        noise_variance   E[tr Cov_ε(g | x, u) | bin]; of draws in antithetic pairs, 2 tr Cov of a pair's mean

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
        chunk: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> NoiseLevelProfile:
        """`upstreams` samples, each at one level in every bin, u_b ~ U[b/N, (b+1)/N), with `noises` noises.

        A bin's terms of one upstream sample are mean_j ‖g_j‖² and the sample variance of the g_j, both
        unbiased. Network calls and backwards: upstreams · bins · noises, twice as many with antithetic
        noises. Memory: a few vectors and O(bins), beside the residuals of one sample.

        Args:
            pipeline: see :data:`Pipeline`; called with one sample at a time.
            parameters: differentiate by these; pass some of a network's to look at those alone.
            generator: of everything that is drawn.
            bins: N ≥ 1.
            upstreams, noises: at least 2 each.
            noise: iid | antithetic; with the latter each of the `noises` is a pair (ε, −ε) at one level, and
                the noise's variance that of draws so paired.
            project: a linear map of the gradient that keeps squared norms, as :class:`CountSketch`.
            chunk: rows per call of the residual; all of a sample's by default.
            progress: called with the number of finished upstream samples.

        Raises:
            ValueError: no bin, fewer than two replicates of a kind, or another coupling.
        """
        for name, count, least in (("bins", bins, 1), ("upstreams", upstreams, 2), ("noises", noises, 2)):
            if count < least:
                raise ValueError(f"{name} must be at least {least}, found {count}")
        if noise not in ("iid", "antithetic"):
            raise ValueError(f"noise must be iid or antithetic, found {noise!r}")
        pair = 2 if noise == "antithetic" else 1
        prior, statistics = Proposal.uniform(bins), _Running(bins)
        for done in range(upstreams):
            x, residual = pipeline(1, generator)
            place = torch.rand(bins, generator=generator, device=x.device, dtype=torch.float64)
            v = place.add_(torch.arange(bins, device=x.device)).div_(bins)
            u = prior.sample(v, x.dtype)[0].repeat_interleave(noises * pair)  # rounding never leaves the bin
            eps = draw_noise(bins, noises * pair, x.shape[1:], noise, generator, x.device, x.dtype).flatten(
                0, 1
            )
            rows = sample_residuals(residual, x, u, torch.ones_like(u), eps, chunk)
            gradients = row_gradients(x, rows, parameters)
            terms = torch.zeros(2, bins, dtype=torch.float64)
            for b in range(bins):
                meter = VarianceMeter()
                for _ in range(noises):
                    draws = [next(gradients) for _ in range(pair)]
                    if project is not None:
                        draws = [project(g) for g in draws]
                    terms[0, b] += sum(g.double().square().sum().item() for g in draws) / (noises * pair)
                    meter.update(draws[0] if pair == 1 else (draws[0] + draws[1]) / 2)
                terms[1, b] = pair * meter.variance
            statistics.update(terms)
            if progress is not None:
                progress(done + 1)
        mean, se = statistics.mean, statistics.standard_error
        return cls(mean[0], se[0], mean[1], se[1], upstreams)

    def importance(self, defensive: float = 0.1) -> Proposal:
        """q ∝ √E‖g‖², mixed with the prior: the least variance for iid draws.

        Raises:
            ValueError: every second moment is zero, or `defensive` lies outside [0, 1].

        Source: arXiv 2605.21489, section 3.
        """
        return Proposal.from_weights(self.second_moment.sqrt(), defensive)

    def neyman(self, defensive: float = 0.1) -> Proposal:
        """q ∝ √E tr Cov_ε(g | x, u), mixed with the prior: the least variance for strata per upstream sample.

        Fine strata leave no variance between levels, so K · Var → ∫ E tr Cov_ε(g | x, u)/q(u) du, and the
        least value of that is (∫ √(E tr Cov_ε) du)².

        Raises:
            ValueError: no bin has any noise variance, or `defensive` lies outside [0, 1].

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
