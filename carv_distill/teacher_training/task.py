"""Training a teacher as tasks: of labelled images, of images with prompts, by latents or pixels, of clips."""

from __future__ import annotations

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
