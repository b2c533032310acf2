"""The models whose training sets are ranked: digits in pixels, latents of a miniature Stable Diffusion."""

from __future__ import annotations

from functools import cache

from carv_distill.attribution.gradients import SampleGradients
from carv_distill.attribution.models import Subject, labelled_subject, prompted_subject
from carv_distill.attribution.pipeline import attribution_pipeline
from carv_distill.attribution.projection import build_projector
from carv_distill.data.shapes import shape_images
from carv_distill.teachers.schedule import LogNormalSchedule
from carv_distill.variance import Pipeline

MODELS = ("digits", "latents")
DIGITS_LEVELS = LogNormalSchedule(-0.5, 1.6, 0.02, 20.0)
"""What the shipped digits teacher was trained on."""


@cache
def subject_of(model: str) -> Subject:
    """Model and training set; once per process."""
    if model == "digits":
        return labelled_subject("checkpoints/digits-teacher", "digits", "cpu", DIGITS_LEVELS)
    return prompted_subject("checkpoints/shapes-teacher", shape_images(32, 8), "cpu")


@cache
def gradients_of(model: str) -> SampleGradients:
    """By all parameters of the denoiser, in float32."""
    subject = subject_of(model)
    return SampleGradients(subject.denoiser, subject.schedule)


def pipeline_of(model: str) -> Pipeline:
    """Its gradients, unprojected, as the measures take them."""
    training = subject_of(model).training
    whole = build_projector("none", 1, 0)
    return attribution_pipeline(gradients_of(model), whole, training.x, training.cond, chunk=32)
