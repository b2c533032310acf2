"""CARV: compute-aware variance reduction for expectations with diffusion teachers.

Pure mathematics on tensors: lift this folder into any SDS, DMD or attribution code. The estimator is

    g = 1/R Σ_r J(x_r)ᵀ [ 1/K Σ_k ω(u_rk) r(x_r, u_rk, ε_rk) ],    ω = p/q,  p = U[0, 1),

with R expensive upstream samples x_r and K cheap draws (u, ε) of each (arXiv 2605.21489).
"""

from .adaptive import STATISTICS, AdaptiveProposal
from .advise import Advice, MeasuredWithin, VarianceModel, advise
from .budget import VarianceBudget
from .chunk import Chunk
from .coefficient import NoiseCoefficient
from .compute import CostModel, StageTimer, best_draws, ecm, largest_ecm, relative_efficiency
from .estimate import Estimate, mean_estimate, paired_ratio, ratio, scaled
from .estimator import average_residual, surrogate
from .noise import NOISES
from .parity import NoiseParity, hermite_factor
from .past import Lessons
from .pipeline import Pipeline, estimate_gradient, under
from .profile import NoiseLevelProfile
from .projection import CountSketch
from .proposal import Proposal
from .sampling import Draws, NoiseLevelSampler
from .strata import STRATEGIES
from .streams import stream
from .variance import PairedVariance, VarianceMeter

__all__ = [
    "NOISES",
    "STATISTICS",
    "STRATEGIES",
    "AdaptiveProposal",
    "Advice",
    "Chunk",
    "CostModel",
    "CountSketch",
    "Draws",
    "Estimate",
    "Lessons",
    "MeasuredWithin",
    "NoiseCoefficient",
    "NoiseLevelProfile",
    "NoiseLevelSampler",
    "NoiseParity",
    "PairedVariance",
    "Pipeline",
    "Proposal",
    "StageTimer",
    "VarianceBudget",
    "VarianceMeter",
    "VarianceModel",
    "advise",
    "average_residual",
    "best_draws",
    "ecm",
    "estimate_gradient",
    "hermite_factor",
    "largest_ecm",
    "mean_estimate",
    "paired_ratio",
    "ratio",
    "relative_efficiency",
    "scaled",
    "stream",
    "surrogate",
    "under",
]
