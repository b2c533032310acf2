"""A teacher that prompts condition, and the captioned images or clips that it learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carv_distill.attribution.options import AUTO, ModelOptions
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.attribution.samples.latents import EncodedSet, digest, encoded
from carv_distill.attribution.samples.motion import Motion
from carv_distill.attribution.samples.sets import Samples, TrainingSet, names_of, numbers_of
from carv_distill.data.captioned import CaptionedSet, load_captioned_images
from carv_distill.data.clips.options import ClipOptions
from carv_distill.data.clips.sets import ClipSet
from carv_distill.data.images import load_captioned, load_prompted
from carv_distill.data.options import PROMPTED, DataOptions
from carv_distill.digests import content_digest
from carv_distill.errors import UserError
from carv_distill.evaluation.generate import image_latents
from carv_distill.files import cache_folder
from carv_distill.teachers.condition import Condition
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.pipelines.codecs import Pixels
from carv_distill.teachers.pipelines.encoder import PromptEncoder
from carv_distill.teachers.pipelines.folder import PipelineFolder, find_pipeline
from carv_distill.teachers.pipelines.table import PromptTable, prompt_table
from carv_distill.teachers.pipelines.teacher import TextTeacher, load_text_teacher
from carv_distill.teachers.sampler import ddim_sample

from .attributed import AttributedModel, architecture
from .offload import offload_blocks

Captioned = CaptionedSet | ClipSet
GUIDANCE, STEPS = 3.0, 50
"""Of samples of the teacher's own."""


def prompted_model(
    path: str | Path, data: DataOptions | ClipOptions, device: str, o: ModelOptions, seed: int = 0
) -> AttributedModel:
    """A text-to-image or text-to-video teacher. Of its training set latents and prompts' embeddings are made
    once, and kept in a folder; text models are freed before pictures are encoded.

    Args:
        seed: of rendered images.

    Raises:
        UserError: pictures for a teacher of clips or the other way round, of another size, or that cannot be
            read.
    """
    pipeline = find_pipeline(path)
    _require_kind(pipeline, isinstance(data, ClipOptions))
    if not isinstance(data, ClipOptions):
        o.require_no_clips(str(path))
    folder = cache_folder("attribution") if o.cache is None else o.cache
    size: tuple[int, ...] = ()
    clips: ClipSet | None = None
    if isinstance(data, ClipOptions):  # first, as they may be at fault
        size = data.size or pipeline.family.size
        clips = _clips(data, size)
    texts = _Texts(pipeline, folder / "prompts", device)
    teacher = _loaded(path, size, texts, device, o)
    found: Captioned | None = clips
    if isinstance(data, DataOptions):
        found = _images(data, teacher, seed)
    assert found is not None
    motion = None if clips is None or o.motion == "none" else Motion(o.motion, o.motion_floor)
    model = _PromptedModel(teacher, texts, motion, device)

    def read(place: Path) -> tuple[Tensor, list[Any], list[str]]:
        own: Captioned
        if clips is None:
            own = load_captioned_images(str(place), teacher.image_size)
        else:
            own = _clips(ClipOptions(str(place)), size)
        pictures, labels = own.batch(torch.arange(len(own)))
        return pictures, [own.captions[n] for n in labels.tolist()], names_of(own)

    def another(place: Path, samples: Samples) -> tuple[NetworkDenoiser, SampleBatch]:
        own = find_pipeline(place)
        _require_kind(own, clips is not None)
        words = _Texts(own, folder / "prompts", device)
        other = _loaded(place, size or teacher.size, words, device, o)
        taken = replace(model, teacher=other, texts=words)
        return other.denoiser, taken.prepare(samples.pictures, samples.words).batch

    captions = [found.captions[n] for n in found.labels.tolist()]
    return AttributedModel(
        name=str(path),
        denoiser=teacher.denoiser,
        architecture=architecture(teacher.network.config),
        schedule=teacher.schedule,
        training=_training(found, model, pipeline, folder / "latents", o.workers),
        shape=tuple(found.spec.shape),
        classes=None,
        prepare=model.prepare,
        generate=model.generate,
        asked=lambda count: [captions[n * len(captions) // count] for n in range(count)],
        read=read,
        another=another,
    )


def _loaded(
    path: str | Path, size: Sequence[int], texts: _Texts, device: str, o: ModelOptions
) -> TextTeacher:
    """A teacher that knows no prompt, on the device but for what is offloaded."""
    # offloaded weights cannot be cast later: those on the device are copies
    half = o.precision == "bf16-true" or (o.offload and o.precision == AUTO and device.startswith("cuda"))
    dtype = torch.bfloat16 if half else torch.float32
    teacher = load_text_teacher(path, size, dtype=dtype, cond=texts([""]))
    teacher.prompts.remember({}, teacher.prompts.complete(texts.none))
    if not o.offload:
        return teacher.to(device)
    offload_blocks(teacher.network, device)
    for part in (teacher.prompts, teacher.codec):
        part.to(device)
    return teacher


class _Texts:
    """Prompts → conditions without what is told beside, on the CPU; from disk where they are known."""

    def __init__(self, pipeline: PipelineFolder, folder: Path, device: str) -> None:
        self._pipeline, self._folder, self._device = pipeline, folder, device
        self._encoder: PromptEncoder | None = None
        self.key = pipeline.text_digest()

    def __call__(self, prompts: Sequence[str]) -> Condition:
        """A row for each."""
        return self.table(prompts)(torch.arange(len(prompts)))

    @property
    def none(self) -> Condition:
        """No prompt's, one row."""
        return self.table([""]).null

    def table(self, prompts: Sequence[str]) -> PromptTable:
        """Number of a prompt → its condition, read as it is wanted."""
        return prompt_table(self._folder, self.key, prompts, self._load)

    def release(self) -> None:
        """Frees the text models; they are read again for prompts that are new."""
        self._encoder = None

    def _load(self) -> PromptEncoder:
        if self._encoder is None:
            self._encoder = self._pipeline.encoder(torch.float32).to(self._device)
        return self._encoder


@dataclass(frozen=True)
class _PromptedModel:
    """What makes samples of pictures with prompts."""

    teacher: TextTeacher
    texts: _Texts
    motion: Motion | None
    device: str

    def prepare(self, pictures: Tensor, prompts: list[Any]) -> Samples:
        """Of pictures, encoded."""
        codec = self.teacher.codec
        rows = codec.rows(torch.empty(1, *self.teacher.shape, device="meta"))
        parts = pictures.split(max(1, min(rows, len(pictures))))
        x = torch.cat([encoded(codec, part.to(self.device)).cpu() for part in parts])
        return self._samples(pictures, prompts, x)

    @torch.no_grad()
    def generate(self, prompts: Sequence[Any]) -> Samples:
        """The teacher's own, under guidance: x is taken as it was made."""
        z, _ = image_latents(range(len(prompts)), self.teacher.shape, 0)
        cond = self.teacher.prompts.complete(self.texts(list(prompts))).to(self.device)
        guided, steps = self.teacher.guided(GUIDANCE), min(STEPS, self.teacher.schedule.timesteps)
        x = ddim_sample(guided, self.teacher.schedule, z.to(self.device), cond, steps)
        pictures = self.teacher.decode(x).clamp(-1, 1).cpu()
        pictures = pictures.movedim(1, 2) if pictures.ndim == 5 else pictures
        return self._samples(pictures, list(prompts), x.cpu())

    def _samples(self, pictures: Tensor, prompts: list[str], x: Tensor) -> Samples:
        cond = self.teacher.prompts.complete(self.texts(prompts))
        weight = None
        if self.motion is not None:
            weight = self.motion.weights(self.motion.magnitude(pictures, x.shape[2:]))
        return Samples(pictures, prompts, SampleBatch(x, cond, weight))


def _training(
    data: Captioned, model: _PromptedModel, pipeline: PipelineFolder, folder: Path, workers: int
) -> TrainingSet:
    """Read from the cache; pixels from the data themselves."""
    teacher, labels = model.teacher, data.labels
    table = model.texts.table(list(data.captions))
    model.texts.release()  # before the autoencoder works
    key = data.fingerprint()
    encoded_set: EncodedSet | None = None
    if not isinstance(teacher.codec, Pixels):
        vae = content_digest(pipeline.place("vae"))
        encoded_set = EncodedSet(
            data, teacher.codec, teacher.shape, model.motion, folder, f"{key} {vae}", model.device, workers
        )

    def batch(numbers: Tensor) -> SampleBatch:
        cond = teacher.prompts.complete(table(labels[numbers]))
        if encoded_set is None:
            return SampleBatch(data.batch(numbers)[0], cond)
        x, weight = encoded_set.read(numbers)
        return SampleBatch(x, cond, weight)

    about = [key, model.texts.key, *data.captions, str(model.motion), str(teacher.prompts.guidance)]
    if encoded_set is not None:
        about.append(encoded_set.cache.key)
    return TrainingSet(
        words=[data.captions[n] for n in labels.tolist()],
        names=names_of(data),
        shape=teacher.shape,
        batch=batch,
        pictures=lambda numbers: data.batch(numbers)[0],
        digest=digest([labels], "\0".join(about)),
        numbers=numbers_of(data),
        encode=(lambda numbers: None) if encoded_set is None else encoded_set.encode,
    )


def _clips(data: ClipOptions, size: Sequence[int]) -> ClipSet:
    frames, height, width = size
    return replace(data, size=(frames, height, width)).load()


def _images(data: DataOptions, teacher: TextTeacher, seed: int) -> CaptionedSet:
    """Captioned pictures of the teacher's own size."""
    if data.name not in PROMPTED:
        return load_captioned(replace(data, size=teacher.image_size))
    if data.size != teacher.image_size:
        raise UserError(
            f"data.size: {data.size} pixels, but the teacher takes pictures of {teacher.image_size}"
        )
    return load_prompted(data, seed)


def _require_kind(pipeline: PipelineFolder, clips: bool) -> None:
    name = pipeline.family.pipeline.__name__
    takes_clips = len(pipeline.family.size) == 3
    if takes_clips and not clips:
        raise UserError(f"--data: {pipeline.folder} is a {name}, which learns from clips; images are given")
    if clips and not takes_clips:
        raise UserError(f"--data: {pipeline.folder} is a {name}, which learns from images; clips are given")
