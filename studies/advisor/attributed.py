"""Attribution: the pilot's choice of a sampler, and its variance on training samples that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from carv_distill.attribution.features.pilot import pilot_sampler
from carv_distill.attribution.gradients.backward import BackwardGradients
from carv_distill.attribution.gradients.loss import SampleLoss
from carv_distill.attribution.gradients.projection import build_projector
from carv_distill.attribution.gradients.sample_gradients import attribution_pipeline
from carv_distill.attribution.gradients.vmapped import VmapGradients
from carv_distill.attribution.models.attributed import AttributedModel, labelled_model
from carv_distill.attribution.models.prompted import prompted_model
from carv_distill.attribution.options import ModelOptions
from carv_distill.carv import NoiseLevelSampler, Proposal, stream
from carv_distill.data.clips.options import ClipOptions
from carv_distill.data.options import DataOptions
from carv_distill.variance import Estimate, Pipeline, estimate_gradient, paired_ratio, paired_variance
from studies.advisor.cases import Prediction, Sizes

DRAWS = 16
PROJECTED = 8192
ATTRIBUTED = ("attribution, images", "attribution, clips")
TEACHERS = ("checkpoints/digits-teacher", "checkpoints/clips-teacher")
CPU = torch.device("cpu")


def model_of(name: str, size: tuple[int, int, int]) -> AttributedModel:
    """The teacher that ships, with its training set."""
    if name == ATTRIBUTED[0]:
        return labelled_model(TEACHERS[0], DataOptions("digits"), "cpu")
    return prompted_model(TEACHERS[1], ClipOptions(size=size), "cpu", ModelOptions(workers=0))


def pipeline_of(model: AttributedModel, numbers: Tensor) -> Pipeline:
    """Gradients of these training samples, int64 [n], in sketches."""
    loss = SampleLoss(model.denoiser, model.schedule)
    gradients = VmapGradients(loss) if len(model.training.shape) == 3 else BackwardGradients(loss)
    samples = model.training.batch(numbers)
    return attribution_pipeline(gradients, build_projector("countsketch", PROJECTED, 0), samples)


def predict(name: str, size: tuple[int, int, int], sizes: Sizes) -> Prediction:
    """What the pilot chooses for K = 16, what it is worth on a few samples of its pool, and on others.

    The pilot tries its samplers on random samples of the pool, as `evaluate.py influence` has it. The two
    estimates take each sample once, with draws that are neither the pilot's nor each other's.
    """
    model, few = model_of(name, size), sizes.samples
    order = torch.randperm(len(model.training), generator=stream("advisor", name))
    pool, others = order[: sizes.pool], order[sizes.pool : sizes.pool + 3 * few]
    sampler = pilot_sampler(pipeline_of(model, pool), DRAWS, 0, CPU, samples=few)
    predicted = worth([pipeline_of(model, n) for n in pool[:few].split(1)], sampler, "predicted")
    measured = worth([pipeline_of(model, n) for n in others.split(1)], sampler, "measured")
    said = f"{sampler.strategy}, {sampler.noise} noises"
    values = predicted.value, measured.value
    return Prediction(said, (1, DRAWS), (1, DRAWS), predicted, measured, values, (1.0, 1.0))


def worth(samples: Sequence[Pipeline], sampler: NoiseLevelSampler, name: str) -> Estimate:
    """Variance of K iid draws over that of a sampler's, two sets of each at every sample.

    Samples that are drawn with replacement out of so few would come twice, and an interval over them would
    leave out how the others differ.

    Args:
        samples: a pipeline of each.
        name: of the random streams.
    """

    def within(s: NoiseLevelSampler) -> Estimate:
        def estimate(pair: int, half: int) -> Tensor:
            same = stream("advisor", name, pair)
            own = stream("advisor", name, pair, half, s.strategy, s.noise)
            return estimate_gradient(samples[pair], (), s, 1, DRAWS, same, own)

        return paired_variance(estimate, len(samples)).within()

    return paired_ratio(within(NoiseLevelSampler(Proposal.uniform(), "iid")), within(sampler))
