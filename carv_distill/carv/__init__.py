"""CARV: compute-aware variance reduction for expectations with diffusion teachers.

Pure mathematics on tensors: lift this folder into any SDS, DMD or attribution code. The estimator is

    g = 1/R Σ_r J(x_r)ᵀ [ 1/K Σ_k ω(u_rk) r(x_r, u_rk, ε_rk) ],    ω = p/q,  p = U[0, 1),

with R expensive upstream samples x_r and K cheap draws (u, ε) of each (arXiv 2605.21489).
"""

from typing import TYPE_CHECKING

from .lazy import lazy_names

if TYPE_CHECKING:
    from .adaptive import AdaptiveProposal as AdaptiveProposal
    from .chunk import Chunk as Chunk
    from .coefficient import NoiseCoefficient as NoiseCoefficient
    from .couplings import NOISES as NOISES
    from .estimator import FiniteDraws as FiniteDraws
    from .estimator import Observer as Observer
    from .estimator import Residual as Residual
    from .estimator import Upstream as Upstream
    from .estimator import average_residual as average_residual
    from .estimator import carv_loss as carv_loss
    from .estimator import surrogate as surrogate
    from .proposal import Proposal as Proposal
    from .running_sums import StepStatistics as StepStatistics
    from .sampler import Draws as Draws
    from .sampler import NoiseLevelSampler as NoiseLevelSampler
    from .strategies import STATISTICS as STATISTICS
    from .strategies import STRATEGIES as STRATEGIES
    from .streams import stream as stream
else:  # what needs no torch, such as names of strategies, is had without it
    __all__, __getattr__ = lazy_names(
        __name__,
        adaptive="AdaptiveProposal",
        chunk="Chunk",
        coefficient="NoiseCoefficient",
        couplings="NOISES",
        estimator="FiniteDraws Observer Residual Upstream average_residual carv_loss surrogate",
        proposal="Proposal",
        running_sums="StepStatistics",
        sampler="Draws NoiseLevelSampler",
        strategies="STATISTICS STRATEGIES",
        streams="stream",
    )
