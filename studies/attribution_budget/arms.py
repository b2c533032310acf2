"""What is attributed, digits in pixels and latents of a miniature Stable Diffusion, and the samplers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from carv_distill.attribution.features.draws import fixed_grid
from carv_distill.attribution.features.pilot import sampler_dict, sampler_from_dict
from carv_distill.attribution.gradients.loss import SampleLoss
from carv_distill.attribution.gradients.projection import build_projector
from carv_distill.attribution.gradients.sample_gradients import SampleGradients, attribution_pipeline
from carv_distill.attribution.gradients.vmapped import VmapGradients
from carv_distill.attribution.models.attributed import AttributedModel, labelled_model
from carv_distill.attribution.models.prompted import prompted_model
from carv_distill.attribution.options import ModelOptions
from carv_distill.carv import Draws, NoiseLevelSampler, Proposal, stream
from carv_distill.data.options import DataOptions
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.schedule import LogNormalSchedule, NoiseSchedule
from carv_distill.variance import NoiseLevelProfile, Pipeline

MODELS = ("digits", "latents")
DIGITS_LEVELS = LogNormalSchedule(-0.5, 1.6, 0.02, 20.0)
"""What the shipped digits teacher was trained on."""
ARMS = ("iid", "fixed grid", "systematic", "Strat", "IW", "IW+Strat", "best")
"""fixed grid: midpoints, as D-TRAK takes them. best: antithetic pairs at one level in each of K/2 strata, by
importance."""
BUDGETS = (1, 2, 4, 8, 16, 32, 64)


class Weights(dict[str, np.ndarray]):
    """Of a trained network, for cached calls: arrays have a hash that lasts."""

    @classmethod
    def of(cls, denoiser: NetworkDenoiser) -> Weights:
        """A copy."""
        return cls((name, w.numpy().copy()) for name, w in denoiser.state_dict().items())

    def gradients(self, denoiser: NetworkDenoiser, schedule: NoiseSchedule) -> SampleGradients:
        """By all parameters of a network with these weights."""
        denoiser.load_state_dict({name: torch.tensor(w) for name, w in self.items()})
        return VmapGradients(SampleLoss(denoiser.requires_grad_(False).eval(), schedule))

    def __repr__(self) -> str:
        return f"<weights of {len(self)} layers>"


@cache
def model_of(model: str) -> AttributedModel:
    """Model and training set; once per process."""
    if model == "digits":
        return labelled_model("checkpoints/digits-teacher", DataOptions("digits"), "cpu", DIGITS_LEVELS)
    shapes = DataOptions("shapes", size=32, views=8)
    return prompted_model("checkpoints/shapes-teacher", shapes, "cpu", ModelOptions())


@cache
def gradients_of(model: str) -> SampleGradients:
    """By all parameters of the denoiser, in float32."""
    attributed = model_of(model)
    return VmapGradients(SampleLoss(attributed.denoiser, attributed.schedule))


def pipeline_of(model: str) -> Pipeline:
    """Its gradients, unprojected, as the measures take them."""
    training = model_of(model).training
    whole, everything = build_projector("none", 1, 0), training.batch(torch.arange(len(training)))
    return attribution_pipeline(gradients_of(model), whole, everything, chunk=32)


def pilot(model: str, seed: int, samples: int, bins: int) -> dict[str, Any]:
    """The sampler `best` of a model; its proposal q ∝ √E‖g‖² is that of all arms by importance, from
    4 · samples · bins draws of streams that are not those of any measurement."""
    own, pipeline = stream(seed + 7919, "attribution", "profile"), pipeline_of(model)
    profile = NoiseLevelProfile.measure(pipeline, (), own, bins, samples, noise="antithetic")
    return sampler_dict(NoiseLevelSampler(profile.importance(), "paired", "antithetic"))


def draws_of(arm: str, best: dict[str, Any], count: int, shape: Sequence[int], *key: int | str) -> Draws:
    """K draws of an arm, u and weight [1, K], from the stream of that key."""
    if arm == "fixed grid":
        seed = int(torch.randint(2**31, (), generator=stream("grid", *key)))
        return fixed_grid(count, 1, shape, seed)
    chosen = sampler_from_dict(best)
    uniform, importance = Proposal.uniform(), chosen.proposal
    sampler = {
        "iid": NoiseLevelSampler(uniform, "iid"),
        "systematic": NoiseLevelSampler(uniform, "systematic"),
        "Strat": NoiseLevelSampler(uniform, "stratified"),
        "IW": NoiseLevelSampler(importance, "iid"),
        "IW+Strat": NoiseLevelSampler(importance, "stratified"),
        "best": chosen,
    }[arm]
    return sampler.draw(1, count, shape, stream("arm", arm, count, *key))
