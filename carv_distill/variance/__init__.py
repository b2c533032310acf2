"""Where a pipeline's gradient variance comes from, what each fix buys per second, and what to use."""

from typing import TYPE_CHECKING

from carv_distill.carv.lazy import lazy_names

if TYPE_CHECKING:
    from .advice import Advice as Advice
    from .advice import MeasuredWithin as MeasuredWithin
    from .advice import VarianceModel as VarianceModel
    from .advice import advise as advise
    from .analysis import Analysis as Analysis
    from .analysis import MeasuredGradient as MeasuredGradient
    from .analysis import analyse as analyse
    from .budget import VarianceBudget as VarianceBudget
    from .comparison import Arm as Arm
    from .comparison import ArmVariance as ArmVariance
    from .comparison import Comparison as Comparison
    from .comparison import compare as compare
    from .comparison import measure_pairs as measure_pairs
    from .comparison import standard_arms as standard_arms
    from .cost import CostModel as CostModel
    from .cost import StageTimer as StageTimer
    from .cost import best_draws as best_draws
    from .cost import ecm as ecm
    from .cost import largest_ecm as largest_ecm
    from .cost import relative_efficiency as relative_efficiency
    from .cost import time_stages as time_stages
    from .estimate import Estimate as Estimate
    from .estimate import mean_estimate as mean_estimate
    from .estimate import paired_ratio as paired_ratio
    from .estimate import ratio as ratio
    from .estimate import scaled as scaled
    from .estimate import share_estimate as share_estimate
    from .meter import PairedVariance as PairedVariance
    from .meter import VarianceMeter as VarianceMeter
    from .meter import paired_variance as paired_variance
    from .parity import NoiseParity as NoiseParity
    from .pipeline import Pipeline as Pipeline
    from .pipeline import estimate_gradient as estimate_gradient
    from .pipeline import estimate_loss as estimate_loss
    from .pipeline import flat_gradient as flat_gradient
    from .profile import NoiseLevelProfile as NoiseLevelProfile
    from .projection import CountSketch as CountSketch
    from .regime import Regime as Regime
    from .report import analysis_dict as analysis_dict
    from .report import analysis_report as analysis_report
    from .report import analysis_summary as analysis_summary
    from .report import analysis_tables as analysis_tables
    from .report import conclusions as conclusions
    from .table import Table as Table
    from .table import estimate_dict as estimate_dict
    from .table import number as number
    from .table import with_interval as with_interval
else:
    __all__, __getattr__ = lazy_names(
        __name__,
        advice="Advice MeasuredWithin VarianceModel advise",
        analysis="Analysis MeasuredGradient analyse",
        budget="VarianceBudget",
        comparison="Arm ArmVariance Comparison compare measure_pairs standard_arms",
        cost="CostModel StageTimer best_draws ecm largest_ecm relative_efficiency time_stages",
        estimate="Estimate mean_estimate paired_ratio ratio scaled share_estimate",
        meter="PairedVariance VarianceMeter paired_variance",
        parity="NoiseParity",
        pipeline="Pipeline estimate_gradient estimate_loss flat_gradient",
        profile="NoiseLevelProfile",
        projection="CountSketch",
        regime="Regime",
        report="analysis_dict analysis_report analysis_summary analysis_tables conclusions",
        table="Table estimate_dict number with_interval",
    )
