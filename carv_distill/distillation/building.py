"""From a configuration to the module of a distillation: of labelled images, or of a text-to-image teacher."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from carv_distill.data.batches import step_loader
from carv_distill.data.captioned import CaptionedSet, PromptedSet, PromptList
from carv_distill.data.images import check_fit, load_captioned, load_images
from carv_distill.data.options import CAPTIONED
from carv_distill.data.options import PROMPTED as RENDERED
from carv_distill.data.prompts import read_prompts
from carv_distill.data.sets import ImageSet
from carv_distill.digests import content_digest
from carv_distill.engine.estimator import build_estimator
from carv_distill.errors import UserError
from carv_distill.files import cache_folder
from carv_distill.teachers.pipelines.codecs import ImageLatents
from carv_distill.teachers.pipelines.encoder import PromptEncoder
from carv_distill.teachers.pipelines.folder import find_pipeline
from carv_distill.teachers.pipelines.table import prompt_table
from carv_distill.teachers.pipelines.teacher import TextTeacher, load_text_teacher
from carv_distill.teachers.schedule import DiscreteSchedule
from carv_distill.teachers.teacher import load_teacher

from .conditions import Labels, Prompts, number_prompts
from .export.image_student import ImageProduct, Product
from .export.text_student import TextProduct
from .module import DMDModule, RealImages
from .networks import labelled_networks, prompted_networks, timestep_of
from .objective import DMDObjective
from .options import DMDConfig
from .real_latents import RealLatents

log = logging.getLogger(__name__)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def is_prompted(config: DMDConfig) -> bool:
    """Whether samples have prompts, and not labels."""
    return config.data.name in CAPTIONED


def load_data(config: DMDConfig) -> ImageSet | None:
    """The images of a run; None of a text-to-image student that needs none.

    Raises:
        UserError: there are neither prompts nor captions; a set that cannot be read.
    """
    if not is_prompted(config):
        return load_images(config.data, config.needs_images)
    if not config.needs_images:
        return None
    if config.data.name == "captioned" and config.data.path is None and config.prompts.path is None:
        raise UserError(
            "prompts.path: a text-to-image student needs prompts; give prompts.path=FILE, a .txt with one a "
            "line, or data.path=… for captioned images, whose captions they then are"
        )
    return load_captioned(config.data)


def prompted_set(config: DMDConfig, own: bool) -> PromptedSet:
    """What a text-to-image student is measured on: images with captions, or prompts alone.

    Args:
        own: the prompts that it learned from, which are a list's where there is one; else those of images,
            unless there are none.

    Raises:
        UserError: there are neither.
    """
    no_images = config.data.name == "captioned" and config.data.path is None
    if config.prompts.path is not None and (own or no_images):
        return PromptList(read_prompts(config.prompts.path), Path(config.prompts.path).name)
    return load_captioned(config.data)


def build_module(
    config: DMDConfig, data: ImageSet | None, world_size: int = 1, device: str = "cpu"
) -> DMDModule:
    """The module of a distillation run, for one of so many processes.

    Args:
        data: of :func:`load_data`.
        device: where prompts are encoded.
    """
    if is_prompted(config):
        return _prompted(config, data, world_size, device)
    assert data is not None
    teacher = load_teacher(config.teacher.path)
    check_fit(teacher, data.spec, config.teacher.path)
    classes = max(data.spec.classes, 1)  # without labels, all are 0
    networks = labelled_networks(
        teacher, config.teacher.guidance, classes, config.teacher.precision == "bfloat16"
    )
    objective = DMDObjective(networks, config.dmd, Labels(classes), config.seed)
    timesteps = teacher.schedule.timesteps if isinstance(teacher.schedule, DiscreteSchedule) else None
    product = ImageProduct(teacher.scheduler_config, classes)
    return _module(config, objective, product, timesteps, world_size, data)


def _prompted(config: DMDConfig, data: ImageSet | None, world_size: int, device: str) -> DMDModule:
    captions: Sequence[str] = getattr(data, "captions", [])
    teacher, conditions = load_with_prompts(config, captions, device, getattr(data, "labels", None))
    o = config.dmd
    last = teacher.schedule.timesteps - 1
    if timestep_of(teacher.schedule, o) > last:
        raise UserError(
            f"dmd.student_timestep: {o.student_timestep}, but the teacher's last timestep is {last}"
        )
    if data is not None:
        _check_size(teacher, data, config)
    t = config.teacher
    product = TextProduct(
        find_pipeline(t.path),
        teacher.scheduler_config,
        o.student_timestep,
        teacher.size,
        conditions.texts[int(conditions.drawn[0])],
        teacher.prompts.guidance,
    )
    product.check(teacher.network)
    guidance = t.guidance, t.negative_prompt
    networks = prompted_networks(teacher, o, *guidance, PRECISIONS[t.precision], config.seed)
    product = replace(product, shared=networks.shared)
    real = _real_latents(config, teacher, cast(CaptionedSet, data))
    objective = DMDObjective(networks, o, conditions, config.seed, teacher.codec, moments=real is not None)
    return _module(config, objective, product, teacher.schedule.timesteps, world_size, data, real)


def _real_latents(config: DMDConfig, teacher: TextTeacher, data: CaptionedSet) -> RealLatents | None:
    """Of a discriminator's real images, where they are encoded once."""
    gan = config.dmd.gan
    if not gan.on or gan.latents != "cached" or not isinstance(teacher.codec, ImageLatents):
        return None
    autoencoder = content_digest(find_pipeline(config.teacher.path).place("vae"))
    return RealLatents(
        data,
        cache_folder("latents") if gan.cache is None else Path(gan.cache),
        f"{autoencoder} {teacher.codec.vae.dtype}",
        teacher.shape,
        real_batch(config),
        config.seed,
        config.data.workers,
    )


def real_batch(config: DMDConfig) -> int:
    """Real images of a share and update: as many as its student samples."""
    o = config.dmd
    return o.fake_batch * (1 if o.fake_reuse else o.fake_updates_per_student)


def load_with_prompts(
    config: DMDConfig, captions: Sequence[str], device: str = "cpu", labels: Tensor | None = None
) -> tuple[TextTeacher, Prompts]:
    """A text-to-image teacher and the prompts of a run. Text models are read where embeddings are missing,
    and freed before the network is read.

    Args:
        captions: of the data; their numbers are its labels.
        labels: of its images, which say how often a caption is drawn where there is no list of prompts.
    """
    t, pipeline = config.teacher, find_pipeline(config.teacher.path)
    prompts = [] if config.prompts.path is None else read_prompts(config.prompts.path)
    texts, drawn = number_prompts(captions, prompts, labels)
    dtype = PRECISIONS[t.precision]

    def encoder() -> PromptEncoder:
        return pipeline.encoder(dtype).to(device)

    folder = cache_folder("prompts") if config.prompts.cache is None else Path(config.prompts.cache)
    every = [*texts, *([t.negative_prompt] if t.negative_prompt else [])]
    table = prompt_table(folder, f"{pipeline.text_digest()} {t.precision}", every, encoder)
    guidance = t.guidance if t.guidance != 1 else None
    adapters = config.dmd.adapters.kind == "lora"  # else student and fake score start from exact weights
    teacher = load_text_teacher(
        t.path,
        t.size,
        guidance,
        dtype if adapters else torch.float32,
        table(torch.zeros(1, dtype=torch.long)),
    )
    last = table(torch.tensor([len(every) - 1]))
    complete = teacher.prompts.complete
    rows = {t.negative_prompt: complete(last)} if t.negative_prompt else {}
    teacher.prompts.remember(rows, complete(table.null))
    rendered = config.data.name in RENDERED
    theirs = [text for text in texts if not rendered or text in prompts]
    _say_what_is_cut("prompts", theirs, teacher.prompts, logging.WARNING)
    # nobody can shorten these, and the teacher has learned them so
    others = [text for text in texts if text not in theirs]
    _say_what_is_cut(f"captions of {config.data.name}", others, teacher.prompts, logging.INFO)
    return teacher, Prompts(texts, table, drawn, teacher.prompts)


def _say_what_is_cut(what: str, prompts: Sequence[str], encoder: PromptEncoder, level: int) -> None:
    """Says how many prompts are longer than the text models take, and what of the first is left out."""
    cut = encoder.longer(prompts)
    if cut:
        log.log(
            level,
            "%s: %d of %d are longer than the %d tokens of the text model; of %r it does not see %r",
            what,
            len(cut),
            len(prompts),
            encoder.length,
            cut[0],
            encoder.cut_text(cut[0]),
        )


def _module(
    config: DMDConfig,
    objective: DMDObjective,
    product: Product,
    timesteps: int | None,
    world_size: int,
    data: ImageSet | None,
    latents: RealLatents | None = None,
) -> DMDModule:
    real: RealImages | None = latents
    shape: tuple[int, ...] = () if latents is None else latents.shape
    if config.dmd.gan.on and latents is None:
        assert data is not None
        count, workers = real_batch(config), config.data.workers
        real = partial(step_loader, data, count, config.seed, "real", workers=workers)
        shape = data.spec.shape
    return DMDModule(
        objective=objective,
        estimator=build_estimator(config.estimator, timesteps, (config.dmd.t_min, config.dmd.t_max)),
        seed=config.seed,
        product=product,
        accumulate=accumulated_shares(config, world_size),
        real=real,
        real_shape=shape,
    )


def _check_size(teacher: TextTeacher, data: ImageSet, config: DMDConfig) -> None:
    side = data.spec.size
    if teacher.size != (side, side):
        found = "×".join(map(str, teacher.size))
        raise UserError(
            f"data.size: {data.spec.name} has {side}×{side} images, but those of {config.teacher.path} are "
            f"{found}; give data.size={teacher.size[-1]}, or teacher.size=[{side}, {side}]"
        )


def accumulated_shares(config: DMDConfig, world_size: int) -> int:
    """Shares of estimator.upstream samples that each process works through in an update.

    Raises:
        UserError: the processes' shares do not make up dmd.global_batch.
    """
    batch, each = config.dmd.global_batch, config.estimator.upstream * world_size
    if batch is None:
        return 1
    if batch % each:
        raise UserError(
            f"dmd.global_batch: {batch} is not a multiple of {each}, that is estimator.upstream "
            f"{config.estimator.upstream} × {world_size} processes"
        )
    return batch // each
