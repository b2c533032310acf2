"""Training a miniature Stable Diffusion: module and callbacks from a configuration."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback

from carv_distill.data.shapes import shape_images, vocabulary
from carv_distill.engine.task import Task

from .networks import build_networks
from .previews import PromptGrid
from .text_module import TextTeacherModule
from .text_options import TextTeacherConfig

LENGTH = 10
"""Tokens of a prompt: the longest has eight with its ends."""


def prepare_text_teacher(config: TextTeacherConfig, device: str) -> Task:
    """A :class:`TextTeacherModule` that draws prompts as it learns.

    Raises:
        UserError: sizes of networks and pictures that do not fit.
    """
    seed_everything(config.seed, verbose=False)  # initial weights
    networks = build_networks(config.teacher, config.data.size, vocabulary(), LENGTH)
    data = shape_images(config.data.size, config.data.views, config.seed)
    module = TextTeacherModule(networks, data, config.teacher, config.trainer.max_steps, config.seed)
    every = config.preview.every

    def callbacks(folder: Path) -> list[Callback]:
        return [PromptGrid(folder / "samples", every)] if every else []

    shown = {f"loss/{stage}": stage + " {:.3f}" for stage in ("vae", "unet", "clip")}
    # One stage's networks at a time have gradients.
    strategy = "ddp_find_unused_parameters_true"
    return Task(module, callbacks, "teacher", shown, (every,), strategy=strategy)
