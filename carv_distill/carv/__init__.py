"""CARV: compute-aware variance reduction for expectations with diffusion teachers.

Pure mathematics on tensors: lift this folder into any SDS, DMD or attribution code. The estimator is

    g = 1/R Σ_r J(x_r)ᵀ [ 1/K Σ_k ω(u_rk) r(x_r, u_rk, ε_rk) ],    ω = p/q,  p = U[0, 1),

with R expensive upstream samples x_r and K cheap draws (u, ε) of each (arXiv 2605.21489).
"""

from .estimator import average_residual, surrogate
from .noise import NOISES
from .proposal import Proposal
from .sampling import STRATEGIES, Draws, NoiseLevelSampler
from .streams import stream
from .variance import Estimate, PairedVariance, VarianceMeter, ratio

__all__ = [
    "NOISES",
    "STRATEGIES",
    "Draws",
    "Estimate",
    "NoiseLevelSampler",
    "PairedVariance",
    "Proposal",
    "VarianceMeter",
    "average_residual",
    "ratio",
    "stream",
    "surrogate",
]
