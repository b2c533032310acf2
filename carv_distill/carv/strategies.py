"""Where the probabilities v of a batch's draws fall: the strategies of :class:`NoiseLevelSampler`.

A new strategy is one entry of :data:`STRATEGIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # names of strategies are read where torch is not wanted, in options
    from torch import Tensor

    from .random_numbers import Uniforms

STATISTICS = ("second_moment", "neyman")
"""What an :class:`AdaptiveProposal` follows: second_moment suits independent draws, neyman strata."""


@dataclass(frozen=True)
class Strategy:
    """How v in [0, 1), [R, K], is spread: of one upstream sample's K, one picked at random is uniform."""

    name: str
    probabilities: Callable[[Uniforms], Tensor]
    """v of a batch, from its uniform numbers and permutations."""
    even_draws: bool = False
    """Whether K must be even, or 1."""
    independent: bool = False
    """Whether the draws of one upstream sample do not depend on those of another."""
    batch: bool = False
    """Whether draws are spread over the whole batch, for which all ranks need a shared stream."""

    def allows(self, draws: int) -> bool:
        """Whether it can spread K draws."""
        return not self.even_draws or draws == 1 or draws % 2 == 0


def _stratified(n: Uniforms) -> Tensor:
    return n.jitter(n.draws).add(n.count(n.draws)).div_(n.draws)


def _paired(n: Uniforms) -> Tensor:
    strata = max(n.draws // 2, 1)
    return n.jitter(strata).add(n.count(strata)).div_(strata).repeat_interleave(n.draws // strata, 1)


def _systematic(n: Uniforms) -> Tensor:
    return n.jitter(1).add(n.count(n.draws)).div_(n.draws)


def _global(n: Uniforms) -> Tensor:
    cells = n.upstream * n.draws
    return n.jitter(n.draws).add_(n.dealt(1, cells).view(n.upstream, -1)).div_(cells * n.world_size)


def _nested(n: Uniforms) -> Tensor:
    strata = n.upstream * n.world_size
    jitter, cells = n.jitter(n.draws), n.dealt(n.draws, n.upstream)
    return jitter.add_(cells.T + strata * n.count(n.draws)).div_(strata * n.draws)


def _latin_hypercube(n: Uniforms) -> Tensor:
    return n.jitter(n.draws).add_(n.dealt(n.draws, n.upstream).T).div_(n.upstream * n.world_size)


STRATEGIES = {
    s.name: s
    for s in (
        Strategy("iid", lambda n: n.jitter(n.draws), independent=True),
        Strategy("stratified", _stratified, independent=True),
        Strategy("paired", _paired, even_draws=True, independent=True),
        Strategy("global", _global, batch=True),
        Strategy("nested", _nested, batch=True),
        Strategy("latin_hypercube", _latin_hypercube, batch=True),
        Strategy("systematic", _systematic, independent=True),
        Strategy("sobol", lambda n: n.sobol(n.jitter(n.draws)), batch=True),
    )
}
"""With U_rk ~ U[0, 1) independent, n = R · world_size, and π, π_k random permutations that all ranks share
(each rank r has its own part of them):

===============  =======================================================================================
iid              v_rk = U_rk
stratified       v_rk = (k + U_rk)/K: the K draws of one upstream sample hit K strata once each
paired           v_rk = (j + U_rj)/(K/2) for k = 2j and 2j + 1: K/2 strata, each level twice, so that
                 antithetic pairs differ in nothing but the sign
global           v_rk = (π(r, k) + U_rk)/(n K): all draws of the batch, on all ranks, hit n K strata once
                 each (the useful one at K = 1)
nested           v_rk = (k + (π_k(r) + U_rk)/n)/K: both at once, K strata per upstream sample and n K over
                 the batch. What depends on u alone keeps 1/n² of stratified's variance
latin_hypercube  v_rk = (π_k(r) + U_rk)/n: the k-th draws of all samples, on all ranks, hit n strata once
                 each, while the K draws of one sample are independent
systematic       v_rk = (k + U_r)/K: one shift for the K strata; fails on periodic integrands
sobol            consecutive points of a one-dimensional Sobol sequence under a random digital shift
===============  =======================================================================================

A single v_rk of a given k need not be uniform: stratified draw k lies in stratum k.

Source: arXiv 2605.21489, section 3; stratified and Latin hypercube samples: Owen, Monte Carlo theory,
chapters 8 and 10; Sobol points and digital shifts: chapter 17.
"""
