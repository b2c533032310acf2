"""The objectives by their names: what each has in the place of ε̂ in the residual w(t) (ε̂ − c ε)."""

from __future__ import annotations

from carv_distill.geometry.camera import Cameras
from carv_distill.teachers.condition import Condition
from carv_distill.teachers.denoiser import GuidedDenoiser, NetworkDenoiser
from carv_distill.teachers.pipelines.teacher import TextTeacher
from carv_distill.text_to_3d.options import SDSOptions
from carv_distill.text_to_3d.schedules import knots

from .csd import ClassifierScore
from .ism import IntervalScore
from .nfsd import NoiseFreeScore
from .perp_neg import PerpNeg, between_views
from .vsd import FakeScore, VariationalScore


def build_fake(teacher: TextTeacher, options: SDSOptions, seed: int) -> FakeScore | None:
    """The score of the renders, where the objective has one.

    Args:
        seed: of its first weights.
    """
    return FakeScore(teacher.denoiser, options.vsd, seed) if options.objective == "vsd" else None


def build_denoiser(teacher: TextTeacher, options: SDSOptions, fake: FakeScore | None) -> NetworkDenoiser:
    """What predicts ε̂, or what takes its place, as `objective` and `perp_neg` say."""
    scales, prompts = [scale for _, scale in knots(options.guidance)], teacher.prompts

    def guided() -> GuidedDenoiser:
        kind = PerpNeg if options.perp_neg else GuidedDenoiser
        return kind(teacher.denoiser, scales[0], prompts.null(options.negative_prompt)[0])

    match options.objective:
        case "csd":
            return ClassifierScore(teacher.denoiser, scales[0], prompts.null(options.negative_prompt)[0])
        case "nfsd":
            null, negative = prompts.null()[0], prompts.null(options.negative_prompt)[0]
            return NoiseFreeScore(teacher.denoiser, scales[0], null, negative, teacher.schedule)
        case "vsd":
            assert fake is not None
            return VariationalScore(guided(), fake.denoiser)
        case "ism":
            return IntervalScore(guided(), prompts.null()[0], teacher.schedule, options.ism)
    if options.perp_neg:
        return guided()
    # Without guidance only where it never has any.
    return teacher.guided(next((s for s in scales if s != 1), 1.0), options.negative_prompt)


def constant(options: SDSOptions) -> float:
    """c where none is learned: 1 for SDS, which alone has ε in its residual."""
    return 1.0 if options.objective == "sds" else 0.0


def conditions(prompts: Condition, cameras: Cameras, options: SDSOptions) -> Condition:
    """What the teacher is told of each camera's view, n rows.

    Args:
        prompts: of each of :data:`~carv_distill.geometry.camera.VIEWS`.
    """
    return between_views(prompts, cameras) if options.perp_neg else prompts[cameras.view_index()]
