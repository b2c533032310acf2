"""Data attribution: which training samples shaped what a diffusion model does with given ones."""

from carv_distill.options.influence import NORMALISE, PROJECTIONS, SCORES

from .chunks import find_chunk
from .draws import fixed_grid, shared_draws
from .gradients import SampleGradients, sample_features
from .influence import FeatureJob, Influence, influence_of
from .pilot import pilot_sampler
from .pipeline import attribution_pipeline
from .projection import Projector, build_projector
from .ranking import reliability, spearman
from .scores import GroupProducts
from .store import FeatureStore
from .trak import GramMatrix

__all__ = [
    "NORMALISE",
    "PROJECTIONS",
    "SCORES",
    "FeatureJob",
    "FeatureStore",
    "GramMatrix",
    "GroupProducts",
    "Influence",
    "Projector",
    "SampleGradients",
    "attribution_pipeline",
    "build_projector",
    "find_chunk",
    "fixed_grid",
    "influence_of",
    "pilot_sampler",
    "reliability",
    "sample_features",
    "shared_draws",
    "spearman",
]
