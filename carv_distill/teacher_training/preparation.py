"""Training a teacher: modules and callbacks from a configuration, and what a run leaves to others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from carv_distill.data.clips.rendered import RenderedClips, clip_vocabulary
from carv_distill.data.images import load_images, load_prompted
from carv_distill.data.numbers import ONLY, read_numbers
from carv_distill.data.solids import vocabulary
from carv_distill.data.wild import WILD, wild_solids
from carv_distill.engine.callbacks import PictureGrid
from carv_distill.engine.checkpoints import checkpoint_at
from carv_distill.engine.environment import require_layout
from carv_distill.engine.fid_trace import FIDTrace
from carv_distill.engine.folder import product_of
from carv_distill.engine.sample_grid import SampleGrid
from carv_distill.engine.task import Generator, Prepared, TrainedModel
from carv_distill.evaluation.generate import Sample
from carv_distill.evaluation.reference import FIDSetup
from carv_distill.teachers.sampler import heun_sample
from carv_distill.teachers.schedule import LogNormalSchedule
from carv_distill.teachers.teacher import load_teacher

from . import pixel_module, text_module, video_module
from .image_module import PretrainModule, build_teacher
from .networks import build_networks
from .options import (
    PixelTeacherConfig,
    SubsetOptions,
    TeacherConfig,
    TextTeacherConfig,
    VideoTeacherConfig,
)
from .pixel_networks import build_pixel_networks
from .start import start_from
from .video_networks import build_video_networks

LENGTH = 10
"""Tokens of a prompt: the longest has eight with its ends."""


def prepare_images(config: TeacherConfig, device: str, world_size: int) -> Prepared:
    """A :class:`PretrainModule` with a trace of FID and grids of its samples."""
    data = load_images(config.data)
    spec = data.spec
    seed_everything(config.seed, verbose=False)  # initial weights
    module = PretrainModule(
        build_teacher(config.training, spec.channels, spec.size, spec.classes),
        data,
        config.training,
        config.trainer.max_steps,
        config.seed,
        config.fid.sampler_steps,
        config.data.workers,
    )
    fid = FIDSetup.load(config.fid, data, config.data.workers, device) if config.fid.every else None

    def callbacks(folder: Path) -> list[Callback]:
        grid = SampleGrid.of_labels(folder / "samples", config.preview.every, spec.classes, spec.shape)
        return [*([FIDTrace(fid)] if fid else []), grid]

    def begin() -> None:
        if config.training.start is not None:
            start_from(module, config.training.start)

    return Prepared(module, callbacks, PretrainModule.save, begin=begin, shown={"fid": config.fid.shown})


def prepare_text(config: TextTeacherConfig, device: str, world_size: int) -> Prepared:
    """A :class:`~.text_module.TextTeacherModule` that draws prompts as it learns."""
    seed_everything(config.seed, verbose=False)  # initial weights
    networks = build_networks(config.training, config.data.size, vocabulary(), LENGTH)
    o, seed = config.data, config.seed
    source = {"size": o.size, "views": o.views, "elevation": o.elevation, "seed": seed}
    module = text_module.TextTeacherModule(
        networks,
        load_prompted(o, seed),
        config.training,
        config.trainer.max_steps,
        seed,
        source if o.only is None else None,
    )

    def callbacks(folder: Path) -> list[Callback]:
        every = config.preview.every
        return [PictureGrid(folder / "samples", every, text_module.preview, columns=16, scale=2, last=True)]

    shown = {f"loss/{stage}": stage + " {:.3f}" for stage in ("vae", "unet", "clip")}
    return Prepared(module, callbacks, text_module.TextTeacherModule.save, shown=shown, staged=True)


def prepare_pixels(config: PixelTeacherConfig, device: str, world_size: int) -> Prepared:
    """A :class:`~.pixel_module.PixelTeacherModule` that draws prompts as it learns."""
    o = config.training
    seed_everything(config.seed, verbose=False)  # initial weights
    networks = build_pixel_networks(o, o.size, ["a", *WILD])
    views = _taken(config.data, len(WILD) * o.views)
    data = wild_solids(o.size, o.views, config.seed)
    data = data if views is None else data.some(views)
    module = pixel_module.PixelTeacherModule(networks, data, o, config.trainer.max_steps, config.seed)

    def callbacks(folder: Path) -> list[Callback]:
        every = config.preview.every
        return [PictureGrid(folder / "samples", every, pixel_module.preview, columns=8, scale=3, last=True)]

    shown = {f"loss/{stage}": stage + " {:.3f}" for stage in ("unet", "clip")}
    return Prepared(module, callbacks, pixel_module.PixelTeacherModule.save, shown=shown, staged=True)


def prepare_clips(config: VideoTeacherConfig, device: str, world_size: int) -> Prepared:
    """A :class:`~.video_module.VideoTeacherModule` that shows clips as it learns."""
    o = config.training
    seed_everything(config.seed, verbose=False)  # initial weights
    networks = build_video_networks(o, clip_vocabulary())
    data = RenderedClips(o.clips, o.size, o.frames, config.seed)
    numbers = _taken(config.data, o.clips)
    numbers = torch.arange(o.clips) if numbers is None else numbers
    prompts = [data.captions[label] for label in data.labels[numbers].tolist()]
    clips = data.render(numbers)
    small = [RenderedClips(o.clips, s, o.frames, config.seed).render(numbers) for s in o.small_sizes]
    module = video_module.VideoTeacherModule(
        networks, clips, prompts, o, config.trainer.max_steps, config.seed, small
    )

    def callbacks(folder: Path) -> list[Callback]:
        every, columns = config.preview.every, video_module.SHOWN
        return [PictureGrid(folder / "samples", every, video_module.preview, columns, last=True)]

    shown = {f"loss/{stage}": stage + " {:.3f}" for stage in ("vae", "transformer")}
    return Prepared(module, callbacks, video_module.VideoTeacherModule.save, shown=shown, staged=True)


def _taken(options: SubsetOptions, count: int) -> Tensor | None:
    """Numbers of the training samples that are taken, of `count`; None: all."""
    return None if options.only is None else read_numbers(options.only, count, ONLY)


def image_generators(config: TeacherConfig, run: Path, device: str) -> list[Generator]:
    """The run's teacher, by Heun's steps."""
    steps = config.fid.sampler_steps

    def teacher() -> Sample:
        trained = load_teacher(product_of(run, "teacher"))
        trained.denoiser.to(device)
        return lambda z, labels: heun_sample(trained.denoiser, trained.schedule, z, labels, steps)

    return [Generator(f"teacher, Heun {steps}", teacher)]


def image_model(config: TeacherConfig, run: Path, step: int | None) -> TrainedModel:
    """The run's teacher, its loss over the noise levels that it was trained on."""
    o = config.training
    levels = LogNormalSchedule(o.p_mean, o.p_std, o.sigma_min, o.sigma_max)
    weights, rate = (None, None) if step is None else _at_step(run, step)
    product = product_of(run, "teacher")
    return TrainedModel(product, config.data, levels=levels, weights=weights, learning_rate=rate)


def _at_step(run: Path, step: int) -> tuple[dict[str, torch.Tensor], float]:
    """The denoiser's weights and the learning rate at a checkpoint."""
    require_layout(run, "--checkpoints")
    path, _ = checkpoint_at(run / "checkpoints", step)
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    prefix = "denoiser."
    state = content["state_dict"].items()
    weights = {k.removeprefix(prefix): v for k, v in state if k.startswith(prefix)}
    return weights, float(content["optimizer_states"][0]["param_groups"][0]["lr"])
