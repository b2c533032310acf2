"""What makes images of a finished run: its student, the averages beside it, its teacher."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from carv_distill.data.images import load_images
from carv_distill.engine.folder import product_of
from carv_distill.engine.task import Generator
from carv_distill.evaluation.generate import Sample
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.origin import Origin
from carv_distill.teachers.pipelines.teacher import TextTeacher, read_pipeline_network
from carv_distill.teachers.sampler import ddim_sample, sample, solver_of
from carv_distill.teachers.teacher import load_schedule, load_teacher

from .building import is_prompted, load_with_prompts, prompted_set
from .conditions import Prompts
from .networks import timestep_of
from .options import DMDConfig


def generators(config: DMDConfig, run: Path, device: str, own: bool = False) -> list[Generator]:
    """The run's student by one step, its averages beside it likewise, and its teacher under guidance.

    Args:
        own: labels are numbers of the prompts that the student learned from, instead of those of the data's
            captions, where the two differ.
    """
    return _prompted(config, run, device, own) if is_prompted(config) else _labelled(config, run, device)


def _labelled(config: DMDConfig, run: Path, device: str) -> list[Generator]:
    steps, folder = config.fid.sampler_steps, product_of(run, "student")

    def student(average: str = ".") -> Sample:
        network = load_teacher(folder / average)
        network.denoiser.to(device)
        origin = Origin.of_images(network.schedule)
        return lambda z, labels: origin(network.denoiser, z, labels)

    def teacher() -> Sample:
        frozen = load_teacher(config.teacher.path)
        scale = config.teacher.guidance
        classes = 0 if scale == 1 else load_images(config.data, wanted=False).spec.classes
        guided = frozen.guided(scale, classes).to(device)
        return lambda z, labels: sample(guided, frozen.schedule, z, labels, steps)

    beside = [
        Generator(f"student, 1 step, average {decay:g}", partial(student, f"averages/{decay:g}"))
        for decay in config.dmd.ema_beside
    ]
    return [
        Generator("student, 1 step", student),
        *beside,
        Generator(f"teacher, {solver_of(load_schedule(folder))} {steps}", teacher, teacher=True),
    ]


def _prompted(config: DMDConfig, run: Path, device: str, own: bool) -> list[Generator]:
    """Of latents, decoded."""
    steps, t, prompts = config.fid.sampler_steps, config.teacher, prompted_set(config, own)
    frozen, conditions = load_with_prompts(config, prompts.captions, device)
    frozen.to(device)
    conditions.to(device)
    pictures = partial(_pictures, frozen, conditions)

    def student(average: str = ".") -> Sample:
        folder = product_of(run, "student") / average
        network = read_pipeline_network(folder, frozen.family, frozen.shape)
        denoiser = NetworkDenoiser(network, frozen.denoiser.precondition).eval().to(device)
        origin = Origin(float(frozen.schedule.table[timestep_of(frozen.schedule, config.dmd)]), seen=True)
        return pictures(lambda z, cond: origin(denoiser, z, cond))

    def teacher() -> Sample:
        guided = frozen.guided(t.guidance, t.negative_prompt).to(device)
        return pictures(lambda z, cond: ddim_sample(guided, frozen.schedule, z, cond, steps))

    of = partial(Generator, latent=frozen.shape, prompts=prompts, size=frozen.image_size)
    averages = config.dmd.ema_beside
    beside = [of(f"student, 1 step, average {d:g}", partial(student, f"averages/{d:g}")) for d in averages]
    guidance = f", guidance {t.guidance:g}" if t.guidance != 1 else ""
    teacher_name = f"teacher, DDIM {steps}{guidance}"
    return [of("student, 1 step", student), *beside, of(teacher_name, teacher, teacher=True)]


def _pictures(teacher: TextTeacher, conditions: Prompts, draw: Sample) -> Sample:
    """Decoded, as many at a time as the codec takes."""

    @torch.no_grad()
    def decoded(z: Tensor, numbers: Tensor) -> Tensor:
        rows = teacher.codec.rows(z)
        parts = zip(z.split(rows), numbers.split(rows), strict=True)
        return torch.cat([teacher.decode(draw(part, conditions(number))) for part, number in parts])

    return decoded
