"""Training a teacher as tasks: of labelled images, of images with prompts, by latents or pixels, of clips."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import ModuleType

from carv_distill.data.clips.options import ClipOptions
from carv_distill.engine.task import PageWords, Task, TrainedModel

from .options import PixelTeacherConfig, TeacherConfig, TextTeacherConfig, VideoTeacherConfig


def _preparation() -> ModuleType:
    from . import preparation  # torch and Lightning, which a configuration is checked without

    return preparation


def _text_model(config: TextTeacherConfig, run: Path, step: int | None) -> TrainedModel:
    assert step is None
    return TrainedModel(run / "teacher", config.data, config.seed)


def _video_model(config: VideoTeacherConfig, run: Path, step: int | None) -> TrainedModel:
    assert step is None
    o = config.training
    clips = ClipOptions(None, (o.frames, o.size, o.size), o.clips, config.seed, config.data.only)
    return TrainedModel(run / "teacher", clips)


DISTILLATIONS = {
    "digits": "configs/dmd_carv.yaml",
    "solids": "configs/solids/dmd_carv.yaml",
    "fashion_mnist": "configs/fashion/dmd_carv.yaml",
    "cifar10": "configs/cifar10/dmd_carv.yaml",
}
"""Configurations that distil a teacher of a data set; for own images that of digits is changed."""


def _distil(config: TeacherConfig, run: Path) -> dict[str, str]:
    data, known = config.data, DISTILLATIONS.get(config.data.name)
    values = {"teacher.path": run / "teacher", "name": f"{config.name}_student"}
    if data.path is not None:
        values["data.path"] = data.path
    if known is None:
        values |= {"data.name": data.name, "data.labels": str(data.labels).lower(), "fid.every": 0}
        values |= {"data.convert": data.convert} if data.convert != "none" else {}
    words = [shlex.quote(f"{key}={value}") for key, value in values.items()]
    return {"distil": " ".join([f"python train.py --config {known or DISTILLATIONS['digits']}", *words])}


def _make_object(config: TextTeacherConfig, run: Path) -> dict[str, str]:
    words = (shlex.quote(f"teacher.path={run / 'teacher'}"), "sds.prompt='a red torus'")
    return {"object": " ".join(["python train.py --config configs/sds_carv.yaml", *words])}


TEACHER = Task(
    name="teacher",
    config=TeacherConfig,
    example="teacher_digits.yaml",
    product="teacher",
    prepare=lambda config, device, processes: _preparation().prepare_images(config, device, processes),
    out_of_memory="a smaller training.batch",
    check=lambda config: config.data.require_labelled(),
    generators=lambda config, run, device, own: _preparation().image_generators(config, run, device),
    model=lambda config, run, step: _preparation().image_model(config, run, step),
    model_at_steps=True,
    further=_distil,
    words=PageWords("Training of a teacher"),
)
TEXT_TEACHER = Task(
    name="text_teacher",
    config=TextTeacherConfig,
    example="teacher_shapes.yaml",
    product="teacher",
    prepare=lambda config, device, processes: _preparation().prepare_text(config, device, processes),
    out_of_memory="a smaller training.batch",
    check=lambda config: config.data.require_prompted(),
    model=_text_model,
    further=_make_object,
    words=PageWords("Training of a text-to-image teacher"),
)
PIXEL_TEACHER = Task(
    name="pixel_teacher",
    config=PixelTeacherConfig,
    example="teacher_wild.yaml",
    product="teacher",
    prepare=lambda config, device, processes: _preparation().prepare_pixels(config, device, processes),
    out_of_memory="a smaller training.batch",
    words=PageWords("Training of a teacher of pixels"),
)
VIDEO_TEACHER = Task(
    name="video_teacher",
    config=VideoTeacherConfig,
    example="teacher_clips.yaml",
    product="teacher",
    prepare=lambda config, device, processes: _preparation().prepare_clips(config, device, processes),
    out_of_memory="a smaller training.batch or training.vae_batch",
    model=_video_model,
    words=PageWords("Training of a text-to-video teacher", shown="Clips from the same noise"),
)
