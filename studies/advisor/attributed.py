"""Attribution: the pilot's choice of a sampler, and its variance on training samples that it has not seen."""

from __future__ import annotations

import torch
from torch import Tensor

from carv_distill.attribution.backward import BackwardGradients
from carv_distill.attribution.gradients import attribution_pipeline
from carv_distill.attribution.loss import SampleLoss
from carv_distill.attribution.models import AttributedModel, labelled_model
from carv_distill.attribution.options import ModelOptions
from carv_distill.attribution.pilot import pilot_sampler
from carv_distill.attribution.projection import build_projector
from carv_distill.attribution.prompted import prompted_model
from carv_distill.attribution.vmapped import VmapGradients
from carv_distill.carv import NoiseLevelSampler, Proposal, stream
from carv_distill.data.clips.options import ClipOptions
from carv_distill.data.options import DataOptions
from carv_distill.variance import Estimate, Pipeline, measure_pairs, paired_ratio
from studies.advisor.cases import Prediction, Sizes

DRAWS = 16
PROJECTED = 8192
ATTRIBUTED = ("attribution, images", "attribution, clips")
CPU = torch.device("cpu")


def model_of(name: str, size: tuple[int, int, int]) -> AttributedModel:
    """The teacher that ships, with its training set."""
    if name == ATTRIBUTED[0]:
        return labelled_model("checkpoints/digits-teacher", DataOptions("digits"), "cpu")
    clips = ClipOptions(size=size)
    return prompted_model("checkpoints/clips-teacher", clips, "cpu", ModelOptions(workers=0))


def pipeline_of(model: AttributedModel, numbers: Tensor) -> Pipeline:
    """Gradients of these training samples, int64 [n], in sketches."""
    loss = SampleLoss(model.denoiser, model.schedule)
    gradients = VmapGradients(loss) if len(model.training.shape) == 3 else BackwardGradients(loss)
    samples = model.training.batch(numbers)
    return attribution_pipeline(gradients, build_projector("countsketch", PROJECTED, 0), samples)


def predict(name: str, size: tuple[int, int, int], sizes: Sizes) -> Prediction:
    """What the pilot chooses for K = 16 on a few samples, and what it is worth on others."""
    model, few = model_of(name, size), sizes.samples
    order = torch.randperm(len(model.training), generator=stream("advisor", name))
    tried, others = pipeline_of(model, order[:few]), pipeline_of(model, order[few : 4 * few])
    sampler = pilot_sampler(tried, DRAWS, 0, CPU, samples=few)
    predicted = worth(tried, sampler, few, seed=0)
    measured = worth(others, sampler, 3 * few, seed=104729)
    said = f"{sampler.strategy}, {sampler.noise} noises"
    values = predicted.value, measured.value
    return Prediction(said, (1, DRAWS), (1, DRAWS), predicted, measured, values, (1.0, 1.0))


def worth(pipeline: Pipeline, sampler: NoiseLevelSampler, samples: int, seed: int) -> Estimate:
    """Variance of iid draws over that of a sampler, K draws of so many samples, two sets of each."""
    iid = NoiseLevelSampler(Proposal.uniform(), "iid")
    there, here = (
        measure_pairs(pipeline, (), s, 1, DRAWS, samples, seed, device=CPU).within() for s in (iid, sampler)
    )
    return paired_ratio(there, here)
