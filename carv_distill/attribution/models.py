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
from carv_distill.data.images import check_fit, load_images
from carv_distill.data.options import PROMPTED, DataOptions
from carv_distill.data.sets import in_memory, originals
from carv_distill.data.solids import PromptedImages, prompted_solids
from carv_distill.engine.folder import product_of
from carv_distill.engine.task import TrainedModel
from carv_distill.errors import UserError
from carv_distill.evaluation.generate import image_latents
from carv_distill.teachers.condition import Cond
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.pipelines.codecs import ImageLatents
from carv_distill.teachers.pipelines.teacher import TextTeacher, load_text_teacher
from carv_distill.teachers.sampler import heun_sample
from carv_distill.teachers.schedule import NoiseSchedule
from carv_distill.teachers.teacher import load_teacher

from .latents import digest, kept_latents


@dataclass(frozen=True)
class Samples:
    """Samples as pictures, and as a model takes them."""

    images: Tensor
    """[n, C, H, W] in [−1, 1]."""
    words: list[str]
    """Label or prompt of each."""
    x: Tensor
    """What the model denoises, [n, …]: pixels or scaled latents."""
    cond: Cond
    """Of n rows."""
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
class AttributedModel:
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
    """So many samples of the model itself, or of its student."""
    student: Path | None = None
    """Of a distillation, whose teacher this model is."""


def load_model(trained: TrainedModel, device: str, keep: Path | None = None) -> AttributedModel:
    """A model with its training set; a distillation's teacher is queried by the student's samples.

    Args:
        keep: a folder for latents, so that pictures are encoded once.
    """
    data = trained.data
    if data.name in PROMPTED:
        images = prompted_solids(data.size, data.views, trained.seed)
        return prompted_model(trained.path, images, device, keep)
    model = labelled_model(trained.path, data, device, trained.levels)
    if trained.weights is not None:
        model.denoiser.load_state_dict(trained.weights)
    if trained.student is not None:
        model = replace(model, generate=_student(trained.student, model, device), student=trained.student)
    return model


def labelled_model(
    path: str | Path, data: DataOptions, device: str, levels: NoiseSchedule | None = None
) -> AttributedModel:
    """A teacher of labelled images.

    Args:
        data: its training set, all of it held in memory; mirror images are left out.
        levels: of its training loss; its own schedule, uniform in u, by default.
    """
    teacher, images = load_teacher(path), in_memory(originals(load_images(data)))
    check_fit(teacher, images.spec, str(path))
    denoiser = teacher.denoiser.to(device)
    classes = images.spec.classes

    def prepare(pictures: Tensor, labels: list[Any]) -> Samples:
        number = torch.as_tensor(labels, dtype=torch.long)
        return Samples(pictures, [str(int(n)) for n in number], pictures, number if teacher.labels else None)

    def generate(count: int) -> Samples:
        z, labels = image_latents(range(count), images.spec.shape, classes, "turn")
        pictures = heun_sample(denoiser, teacher.schedule, z.to(device), labels.to(device))
        return prepare(pictures.cpu(), labels.tolist())

    training = _numbered(prepare(images.images, images.labels.tolist()))
    architecture = _architecture(teacher.network.config)
    schedule = levels or teacher.schedule
    return AttributedModel(str(path), denoiser, architecture, schedule, training, classes, prepare, generate)


def prompted_model(
    path: str | Path, data: PromptedImages, device: str, keep: Path | None = None
) -> AttributedModel:
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
        return Samples(pictures, prompts, x, teacher.prompts(prompts).to("cpu"))

    def prepare(pictures: Tensor, prompts: list[Any]) -> Samples:
        return samples(pictures, prompts, encode(pictures))

    def generate(count: int) -> Samples:
        prompts = [data.prompts[i * len(data) // count] for i in range(count)]
        x = _pictures(teacher, prompts, device)
        images = teacher.decode(x.to(device)).cpu()
        return samples(images.clamp(-1, 1), prompts, x)

    if keep is not None and isinstance(teacher.codec, ImageLatents):
        key = digest([data.images, *teacher.codec.state_dict().values()], str(teacher.codec.scale))
        x = kept_latents(keep / "latents.safetensors", key, lambda: encode(data.images))
    else:
        x = encode(data.images)
    training = _numbered(samples(data.images, data.prompts, x))
    architecture = _architecture(teacher.network.config)
    return AttributedModel(
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


def _student(folder: Path, model: AttributedModel, device: str) -> Callable[[int], Samples]:
    """Samples of a run's student: what it makes is asked of its teacher's data."""

    @torch.no_grad()
    def generate(count: int) -> Samples:
        student = load_teacher(product_of(folder.parent, folder.name))
        student.denoiser.to(device)
        top = student.schedule.sigma_max
        z, labels = image_latents(range(count), model.training.images.shape[1:], model.classes, "turn")
        z = z.to(device)
        pictures = student.denoiser(top * z, z.new_full((count,), top), labels.to(device))
        return model.prepare(pictures.cpu(), labels.tolist())

    return generate
