"""The networks of a distillation: three or four copies of the teacher's, or adapters over one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch

from carv_distill.engine.optimisation import frozen_copy
from carv_distill.teachers.adapters import SharedNetwork
from carv_distill.teachers.denoiser import GuidedDenoiser, NetworkDenoiser
from carv_distill.teachers.network import RawNetwork
from carv_distill.teachers.origin import Origin
from carv_distill.teachers.pipelines.network import PromptNetwork
from carv_distill.teachers.pipelines.teacher import TextTeacher
from carv_distill.teachers.precision import Bfloat16Network
from carv_distill.teachers.schedule import DiscreteSchedule, NoiseSchedule
from carv_distill.teachers.teacher import Teacher

from .options import DMDOptions

STUDENT, AVERAGE, FAKE = "student", "average", "fake"


@dataclass(frozen=True)
class Networks:
    """Student, its average, fake score and teacher as denoisers of one x."""

    student: NetworkDenoiser
    average: NetworkDenoiser
    fake: NetworkDenoiser
    teacher: NetworkDenoiser
    """Frozen, under guidance."""
    schedule: NoiseSchedule
    shape: tuple[int, ...]
    """Of one x."""
    origin: Origin
    shared: SharedNetwork | None = None
    """What the adapters lie over."""


def labelled_networks(teacher: Teacher, guidance: float, classes: int, bfloat16: bool) -> Networks:
    """Copies of the network of a teacher of labelled images.

    Args:
        bfloat16: keep the frozen teacher's weights in bfloat16.
    """
    student, average, fake = _copies(teacher.denoiser)
    guided, shape = teacher.guided(guidance, classes), teacher.network.shape
    if bfloat16:  # once student and fake score have their copies
        guided.network = Bfloat16Network(teacher.network)
    origin = Origin.of_images(teacher.schedule)
    return Networks(student, average, fake, guided, teacher.schedule, shape, origin)


def prompted_networks(
    teacher: TextTeacher, options: DMDOptions, guidance: float, negative: str, dtype: torch.dtype, seed: int
) -> Networks:
    """Copies of a text-to-image network, or adapters over it.

    Args:
        dtype: of the frozen weights.
        seed: of the adapters' first weights.
    """
    origin = Origin(float(teacher.schedule.table[timestep_of(teacher.schedule, options)]), seen=True)
    guided = teacher.guided(guidance, negative)
    if options.adapters.kind == "none":
        student, average, fake = _copies(teacher.denoiser)
        teacher.network.cast(dtype)
        if options.gradient_checkpointing:
            for learning in (student, fake):
                cast(PromptNetwork, learning.network).model.enable_gradient_checkpointing()
        return Networks(student, average, fake, guided, teacher.schedule, teacher.shape, origin)
    teacher.network.cast(dtype)
    shared = SharedNetwork(teacher.network, options.adapters, (STUDENT, AVERAGE, FAKE), seed, "dmd.adapters")
    if options.gradient_checkpointing:
        shared.enable_gradient_checkpointing()
    precondition = teacher.denoiser.precondition
    student, average, fake = (
        NetworkDenoiser(shared.view(name), precondition) for name in (STUDENT, AVERAGE, FAKE)
    )
    average.requires_grad_(False)
    frozen = NetworkDenoiser(shared.view(None), precondition)
    if isinstance(guided, GuidedDenoiser):
        frozen = GuidedDenoiser(frozen, guided.scale, guided.null.value)
    return Networks(student, average, fake, frozen, teacher.schedule, teacher.shape, origin, shared)


def timestep_of(schedule: DiscreteSchedule, options: DMDOptions) -> int:
    """τ, the student's timestep."""
    last = schedule.timesteps - 1
    return last if options.student_timestep is None else options.student_timestep


def _copies(teacher: NetworkDenoiser) -> tuple[NetworkDenoiser, NetworkDenoiser, NetworkDenoiser]:
    """Student, average and fake score."""
    network = cast(RawNetwork, teacher.network)
    student = NetworkDenoiser(network.trainable_copy(), teacher.precondition)
    fake = NetworkDenoiser(network.trainable_copy(), teacher.precondition)
    return student, frozen_copy(student), fake
