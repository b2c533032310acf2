"""Training a teacher of labelled images: module and callbacks from a configuration."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback

from carv_distill.data.images import load_images
from carv_distill.engine.images import FIDTools
from carv_distill.engine.task import Task

from .image_module import PretrainModule, build_teacher
from .image_options import TeacherConfig


def prepare_pretraining(config: TeacherConfig, device: str) -> Task:
    """A :class:`PretrainModule` with a trace of FID.

    Raises:
        UserError: data, features or the network's sizes do not fit.
    """
    data = load_images(config.data)
    spec = data.spec
    seed_everything(config.seed, verbose=False)  # initial weights
    untrained = build_teacher(config.teacher, spec.channels, spec.size, spec.classes)
    module = PretrainModule(
        untrained,
        data,
        config.teacher,
        config.trainer.max_steps,
        config.seed,
        config.fid.sampler_steps,
        config.data.workers,
    )
    tools = FIDTools.load(config, data, device) if config.fid.every else None

    def callbacks(folder: Path) -> list[Callback]:
        return [tools.trace(folder)] if tools else []

    every = config.fid.every
    return Task(module, callbacks, "teacher", {"fid": "FID {:.2f}"}, (every,), every)
