"""CARV: compute-aware variance reduction for expectations with diffusion teachers.

Pure mathematics on tensors: lift this folder into any SDS, DMD or attribution code. The estimator is

    g = 1/R Σ_r J(x_r)ᵀ [ 1/K Σ_k ω(u_rk) r(x_r, u_rk, ε_rk) ],    ω = p/q,  p = U[0, 1),

with R expensive upstream samples x_r and K cheap draws (u, ε) of each (arXiv 2605.21489).
"""

from .adaptive import STATISTICS, AdaptiveProposal
from .chunk import Chunk
from .coefficient import NoiseCoefficient
from .couplings import NOISES
from .estimator import average_residual, surrogate
from .proposal import Proposal
from .running_sums import Lessons
from .sampler import Draws, NoiseLevelSampler
from .strategies import STRATEGIES
from .streams import stream

__all__ = [
    "NOISES",
    "STATISTICS",
    "STRATEGIES",
    "AdaptiveProposal",
    "Chunk",
    "Draws",
    "Lessons",
    "NoiseCoefficient",
    "NoiseLevelSampler",
    "Proposal",
    "average_residual",
    "stream",
    "surrogate",
]
