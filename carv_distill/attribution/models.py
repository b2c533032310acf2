"""A diffusion model and the data that it learned from, as data attribution takes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.data.images import IN_MEMORY, load_images
from carv_distill.data.options import DataOptions
from carv_distill.data.sets import in_memory, originals
from carv_distill.data.shapes import PromptedImages, shape_images
from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.checkpoints import checkpoint_at
from carv_distill.engine.config import config_from_dict
from carv_distill.engine.folder import read_run_config
from carv_distill.engine.images import check_fit
from carv_distill.errors import UserError
from carv_distill.evaluation.generate import image_latents
from carv_distill.teacher_training.image_options import TeacherConfig
from carv_distill.teacher_training.text_options import TextTeacherConfig
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.latent import LatentTeacher
from carv_distill.teachers.pipelines import load_text_teacher
from carv_distill.teachers.sampler import heun_sample
from carv_distill.teachers.schedule import LogNormalSchedule, NoiseSchedule
from carv_distill.teachers.teacher import Teacher, load_teacher
from carv_distill.teachers.text import TextTeacher

from .latents import digest, kept_latents

DATA = (*IN_MEMORY, "shapes")


@dataclass(frozen=True)
class Samples:
    """Samples as pictures, and as a model takes them."""

    images: Tensor
    """[n, C, H, W] in [−1, 1]."""
    words: list[str]
    """Label or prompt of each."""
    x: Tensor
    """What the model denoises, [n, …]: pixels or scaled latents."""
    cond: Tensor | None
    """[n, …]."""
    numbers: Tensor | None = None
    """Of training samples, their numbers in the training set, [n]."""

    def __len__(self) -> int:
        return len(self.x)

    def at(self, numbers: Sequence[int]) -> Samples:
        """Some of them."""
        i = torch.tensor(numbers)
        cond = None if self.cond is None else self.cond[i]
        return Samples(self.images[i], [self.words[n] for n in numbers], self.x[i], cond, i)


@dataclass(frozen=True)
class Subject:
    """A model with its training set."""

    name: str
    denoiser: NetworkDenoiser
    architecture: str
    """Of the network, beside its weights."""
    schedule: NoiseSchedule
    """u → σ of the loss: the levels of its training where a run tells them, else its own, uniform in u."""
    training: Samples
    classes: int
    """Of the labels; 0 where samples have prompts."""
    prepare: Callable[[Tensor, list[Any]], Samples]
    """Images [n, C, H, W] in [−1, 1] with a label or prompt each → samples."""
    generate: Callable[[int], Samples]
    """So many samples of the model itself."""


def load_subject(run: Path, device: str, checkpoint: int | None = None, keep: Path | None = None) -> Subject:
    """The model of a run and its training set: of a distillation the teacher, queried by the student's
    samples; of a teacher's training that teacher, its loss over the noise levels it was trained on.

    Args:
        checkpoint: the network as it was at this step of a teacher's training, instead of the average of the
            weights that was exported.
        keep: a folder for latents, so that pictures are encoded once.

    Raises:
        UserError: a run of another task, one without an exported model, or without that checkpoint.
    """
    config = config_from_dict(read_run_config(run), str(run / "config.yaml"))
    if checkpoint is not None and not isinstance(config, TeacherConfig):
        raise UserError(f"--checkpoints: {run} is of task {config.task}; only a teacher's are read")
    match config:
        case DMDConfig():
            subject = labelled_subject(config.teacher.path, config.data, device)
            return replace(subject, generate=_student(run, subject, device))
        case TeacherConfig():
            o = config.teacher
            levels = LogNormalSchedule(o.p_mean, o.p_std, o.sigma_min, o.sigma_max)
            subject = labelled_subject(_product(run), config.data, device, levels)
            if checkpoint is not None:
                subject.denoiser.load_state_dict(_trained(run, checkpoint))
            return subject
        case TextTeacherConfig():
            data = shape_images(config.data.size, config.data.views, config.seed)
            return prompted_subject(_product(run), data, device, keep)
    raise UserError(
        f"{run}: influence is measured for tasks dmd, teacher and text_teacher, this run's is {config.task}"
    )


def load_model(path: str, data: str, device: str, keep: Path | None = None) -> Subject:
    """A model without a run, with one of the data sets; arguments as above.

    Raises:
        UserError: no such data, or a model that does not fit it.
    """
    if data not in DATA:
        raise UserError(f"--data: {data!r} is not one of {', '.join(DATA)}")
    if data == "shapes":
        return prompted_subject(path, shape_images(), device, keep)
    return labelled_subject(path, data, device)


def labelled_subject(
    path: str | Path, data: str | DataOptions, device: str, levels: NoiseSchedule | None = None
) -> Subject:
    """A teacher of labelled images.

    Args:
        data: its training set, all of it held in memory; mirror images are left out.
        levels: of its training loss; its own schedule, uniform in u, by default.
    """
    options = DataOptions(data) if isinstance(data, str) else data
    teacher, images = load_teacher(path), in_memory(originals(load_images(options)))
    check_fit(teacher, images, str(path))
    denoiser = teacher.denoiser.to(device)
    classes = images.spec.classes

    def prepare(pictures: Tensor, labels: list[Any]) -> Samples:
        number = torch.as_tensor(labels, dtype=torch.long)
        return Samples(pictures, [str(int(n)) for n in number], pictures, number if teacher.labels else None)

    def generate(count: int) -> Samples:
        z, labels = image_latents(range(count), images.spec.shape, classes)
        made = heun_sample(denoiser, teacher.schedule, z.to(device), labels.to(device))
        return prepare(made.cpu(), labels.tolist())

    training = _numbered(prepare(images.images, images.labels.tolist()))
    architecture = _architecture(teacher.network.config)
    schedule = levels or teacher.schedule
    return Subject(str(path), denoiser, architecture, schedule, training, classes, prepare, generate)


def prompted_subject(
    path: str | Path, data: PromptedImages, device: str, keep: Path | None = None
) -> Subject:
    """A text-to-image teacher; the training set's pictures are encoded once, and kept in a folder if there is
    one."""
    teacher = load_text_teacher(path).to(device)
    if data.images.shape[-1] != teacher.image_size:
        raise UserError(
            f"{path} takes pictures of {teacher.image_size} pixels, the data has {data.images.shape[-1]}"
        )

    @torch.no_grad()
    def encode(pictures: Tensor) -> Tensor:
        g = stream("attribution", "encode", device=device)
        return torch.cat([teacher.encode(part.to(device), g).cpu() for part in pictures.split(64)])

    def samples(pictures: Tensor, prompts: list[str], x: Tensor) -> Samples:
        return Samples(pictures, prompts, x, teacher.prompts(prompts).cpu())

    def prepare(pictures: Tensor, prompts: list[Any]) -> Samples:
        return samples(pictures, prompts, encode(pictures))

    def generate(count: int) -> Samples:
        prompts = [data.prompts[i * len(data) // count] for i in range(count)]
        x = _pictures(teacher, prompts, device)
        images = teacher.decode(x.to(device)).cpu() if isinstance(teacher, LatentTeacher) else x
        return samples(images.clamp(-1, 1), prompts, x)

    if keep is not None and isinstance(teacher, LatentTeacher):
        key = digest(
            [data.images, *teacher.vae.state_dict().values()], str(teacher.vae.config.scaling_factor)
        )
        x = kept_latents(keep / "latents.safetensors", key, lambda: encode(data.images))
    else:
        x = encode(data.images)
    training = _numbered(samples(data.images, data.prompts, x))
    architecture = _architecture(teacher.unet.config)
    return Subject(
        str(path), teacher.denoiser, architecture, teacher.schedule, training, 0, prepare, generate
    )


def _architecture(config: Mapping[str, Any]) -> str:
    """A network's configuration, less where it was read from and by which version."""
    plain = {k: v for k, v in config.items() if not k.startswith("_")}
    return json.dumps(plain, sort_keys=True, default=str)


def _numbered(samples: Samples) -> Samples:
    return replace(samples, numbers=torch.arange(len(samples)))


def _pictures(teacher: TextTeacher, prompts: list[str], device: str, guidance: float = 3.0) -> Tensor:
    """Heun samples, as x: a latent is taken as it was made."""
    z, _ = image_latents(range(len(prompts)), teacher.shape, 0)
    guided = teacher.guided(guidance)
    return heun_sample(guided, teacher.schedule, z.to(device), teacher.prompts(prompts)).cpu()


def _student(run: Path, subject: Subject, device: str) -> Callable[[int], Samples]:
    """Samples of the run's student: what it makes is asked of its teacher's data."""

    @torch.no_grad()
    def generate(count: int) -> Samples:
        student: Teacher = load_teacher(_product(run, "student"))
        student.denoiser.to(device)
        top = student.schedule.sigma_max
        z, labels = image_latents(range(count), subject.training.images.shape[1:], subject.classes)
        z = z.to(device)
        made = student.denoiser(top * z, z.new_full((count,), top), labels.to(device))
        return subject.prepare(made.cpu(), labels.tolist())

    return generate


def _product(run: Path, name: str = "teacher") -> Path:
    if not (run / name).is_dir():
        raise UserError(f"{run}: no {name} folder; the run has not reached its first checkpoint")
    return run / name


def _trained(run: Path, step: int) -> dict[str, Tensor]:
    content = torch.load(_step(run, step), map_location="cpu", weights_only=True)
    prefix = "denoiser."
    return {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}


def learning_rate_at(run: Path, step: int) -> float:
    """Of a teacher's training at a checkpoint: TracIn's weight of it."""
    content = torch.load(_step(run, step), map_location="cpu", weights_only=True)
    return float(content["optimizer_states"][0]["param_groups"][0]["lr"])


def _step(run: Path, step: int) -> Path:
    return checkpoint_at(run / "checkpoints", step)[0]
