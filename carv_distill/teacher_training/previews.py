"""Pictures of what a text-to-image teacher makes of prompts, as it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from carv_distill.data.shapes import combinations, object_prompt, view_prompt
from carv_distill.evaluation.grids import save_grid
from carv_distill.geometry.camera import VIEWS

from .text_module import TextTeacherModule


class PromptGrid(Callback):
    """A row for each view: eight learned pairs of colour and solid, then the eight held-out ones."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self._draw(trainer.global_step, pl_module)

    @rank_zero_only
    def _draw(self, step: int, module: TextTeacherModule) -> None:
        learned = combinations(held_out=False)
        # one of each colour, and of as many solids as can be
        pairs = [*(learned[7 * i + i % 7] for i in range(8)), *combinations(held_out=True)]
        prompts = [view_prompt(object_prompt(*pair), view) for view in VIEWS for pair in pairs]
        g = torch.Generator().manual_seed(0)
        images = module.pictures(prompts, g)
        save_grid(images.cpu(), self.folder / f"{step:06d}.png", columns=len(pairs), scale=2)
