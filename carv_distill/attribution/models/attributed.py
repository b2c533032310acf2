"""A diffusion model and the data that it learned from, as data attribution takes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carv_distill.attribution.options import ModelOptions
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.attribution.samples.sets import Samples, TrainingSet, held, names_of, numbers_of
from carv_distill.data.clips.options import ClipOptions
from carv_distill.data.images import check_fit, load_images
from carv_distill.data.options import CAPTIONED, DataOptions
from carv_distill.data.sets import ImageSet, ImageSpec, in_memory, originals
from carv_distill.data.stored import load_stored_images
from carv_distill.engine.folder import product_of
from carv_distill.engine.task import TrainedModel
from carv_distill.errors import UserError
from carv_distill.evaluation.generate import image_latents
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.origin import Origin
from carv_distill.teachers.sampler import sample
from carv_distill.teachers.schedule import NoiseSchedule
from carv_distill.teachers.teacher import Teacher, load_teacher


@dataclass(frozen=True)
class AttributedModel:
    """A model with its training set."""

    name: str
    denoiser: NetworkDenoiser
    architecture: str
    """Of the network, beside its weights."""
    schedule: NoiseSchedule
    """u → σ of the loss: the levels of its training where a run tells them, else its own, uniform in u."""
    training: TrainingSet
    shape: tuple[int, ...]
    """Of a picture, (C, H, W) or (F, 3, H, W)."""
    classes: int | None
    """Of the labels, 0 where nothing is said of a sample; None where samples have prompts."""
    prepare: Callable[[Tensor, list[Any]], Samples]
    """Pictures [n, …] in [−1, 1] with a label or prompt each → samples."""
    generate: Callable[[Sequence[Any]], Samples]
    """Samples of the model itself, or of its student, one for each label or prompt."""
    asked: Callable[[int], Sequence[Any]]
    """So many labels or prompts, from all parts of its training set."""
    read: Callable[[Path], tuple[Tensor, list[Any], list[str]]]
    """A folder, zip or shards of pictures with their labels or captions, and their names."""
    another: Callable[[Path, Samples], tuple[NetworkDenoiser, SampleBatch]]
    """The denoiser of another model of this kind, from its folder, and samples as that one takes them."""
    student: Path | None = None
    """Of a distillation, whose teacher this model is."""


def load_model(trained: TrainedModel, device: str, options: ModelOptions | None = None) -> AttributedModel:
    """A model with its training set; a distillation's teacher is queried by the student's samples.

    Args:
        options: of what is encoded; see :func:`~.prompted.prompted_model`.
    """
    data, o = trained.data, options or ModelOptions()
    if isinstance(data, ClipOptions) or data.name in CAPTIONED:
        from .prompted import prompted_model

        return prompted_model(trained.path, data, device, o, trained.seed)
    o.require_no_clips(str(trained.path))
    o.require_no_blocks(str(trained.path))
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
        data: its training set; mirror images are left out.
        levels: of its training loss; by default those that its folder says, else its own schedule, uniform
            in u.
    """
    teacher = load_teacher(path)
    if teacher.labels <= 1:  # labels say nothing to it, and may be none
        data = replace(data, labels=False)
    images = originals(load_images(data))
    check_fit(teacher, images.spec, str(path))
    denoiser = teacher.denoiser.to(device)
    spec = images.spec

    def prepare(pictures: Tensor, labels: list[Any]) -> Samples:
        return _labelled(pictures, torch.as_tensor(labels, dtype=torch.long), teacher, spec)

    def generate(labels: Sequence[Any]) -> Samples:
        number = torch.as_tensor(labels, dtype=torch.long)
        z, _ = image_latents(range(len(number)), spec.shape, 0)
        pictures = sample(denoiser, teacher.schedule, z.to(device), number.to(device))
        return prepare(pictures.cpu(), number.tolist())

    def read(folder: Path) -> tuple[Tensor, list[Any], list[str]]:
        found = load_stored_images(str(folder), bool(spec.classes), data.convert, spec.words)
        if found.spec.shape != spec.shape:
            raise UserError(
                f"--queries: {folder} has images {list(found.spec.shape)}, the model's are {list(spec.shape)}"
            )
        pictures, labels = found.batch(torch.arange(len(found)))
        return pictures, labels.tolist(), names_of(found)

    def another(folder: Path, samples: Samples) -> tuple[NetworkDenoiser, SampleBatch]:
        other = load_teacher(folder)
        check_fit(other, spec, str(folder))
        return other.denoiser.to(device), samples.batch

    return AttributedModel(
        name=str(path),
        denoiser=denoiser,
        architecture=architecture(teacher.network.config),
        schedule=levels or teacher.levels or teacher.schedule,
        training=_training(images, teacher),
        shape=spec.shape,
        classes=spec.classes,
        prepare=prepare,
        generate=generate,
        asked=lambda count: [n % max(spec.classes, 1) for n in range(count)],
        read=read,
        another=another,
    )


def architecture(config: Mapping[str, Any]) -> str:
    """A network's configuration, less where it was read from and by which version."""
    plain = {k: v for k, v in config.items() if not k.startswith("_")}
    return json.dumps(plain, sort_keys=True, default=str)


def _labelled(pictures: Tensor, labels: Tensor, teacher: Teacher, spec: ImageSpec) -> Samples:
    words = [spec.words[n] if spec.classes else "" for n in labels.tolist()]
    return Samples(pictures, words, SampleBatch(pictures, labels if teacher.labels else None))


def _training(images: ImageSet, teacher: Teacher) -> TrainingSet:
    """All of it in memory: what such a teacher learned from is small beside its features."""
    whole = in_memory(images)
    samples = _labelled(whole.images, whole.labels, teacher, images.spec)
    return held(samples, names_of(images), numbers_of(images))


def _student(folder: Path, model: AttributedModel, device: str) -> Callable[[Sequence[Any]], Samples]:
    """Samples of a run's student: what it makes is asked of its teacher's data."""

    @torch.no_grad()
    def generate(labels: Sequence[Any]) -> Samples:
        student = load_teacher(product_of(folder.parent, folder.name))
        student.denoiser.to(device)
        number = torch.as_tensor(labels, dtype=torch.long)
        z, _ = image_latents(range(len(number)), model.shape, 0)
        pictures = Origin.of_images(student.schedule)(student.denoiser, z.to(device), number.to(device))
        return model.prepare(pictures.cpu(), number.tolist())

    return generate
