"""Where a pipeline's gradient variance comes from, what each fix buys per second, and what to use."""

from .advise import Advice, MeasuredWithin, VarianceModel, advise
from .budget import VarianceBudget
from .compare import Arm, Comparison, Measured, compare, measure_pairs
from .cost import CostModel, StageTimer, best_draws, ecm, largest_ecm, relative_efficiency
from .estimate import Estimate, mean_estimate, paired_ratio, ratio, scaled
from .meter import PairedVariance, VarianceMeter
from .parity import NoiseParity, hermite_factor
from .pipeline import Pipeline, estimate_gradient, under
from .profile import NoiseLevelProfile
from .projection import CountSketch
from .report import comparison_dict, comparison_tables
from .stages import time_stages
from .standard import standard_arms

__all__ = [
    "Advice",
    "Arm",
    "Comparison",
    "CostModel",
    "CountSketch",
    "Estimate",
    "Measured",
    "MeasuredWithin",
    "NoiseLevelProfile",
    "NoiseParity",
    "PairedVariance",
    "Pipeline",
    "StageTimer",
    "VarianceBudget",
    "VarianceMeter",
    "VarianceModel",
    "advise",
    "best_draws",
    "compare",
    "comparison_dict",
    "comparison_tables",
    "ecm",
    "estimate_gradient",
    "hermite_factor",
    "largest_ecm",
    "mean_estimate",
    "measure_pairs",
    "paired_ratio",
    "ratio",
    "relative_efficiency",
    "scaled",
    "standard_arms",
    "time_stages",
    "under",
]
