"""Where a pipeline's gradient variance comes from, what each fix buys per second, and what to use.

Knows `carv_distill.carv` alone: any pipeline can be measured, ours or not
(see examples/advise_own_pipeline.py).
"""

from .compare import Arm, Comparison, Measured, compare, measure_pairs
from .figures import draw_accounting
from .stages import time_stages
from .standard import standard_arms
from .tables import comparison_dict, comparison_tables

__all__ = [
    "Arm",
    "Comparison",
    "Measured",
    "compare",
    "comparison_dict",
    "comparison_tables",
    "draw_accounting",
    "measure_pairs",
    "standard_arms",
    "time_stages",
]
