"""Samples of what is trained, a column for each label or prompt."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from carv_distill.data.sets import to_uint8
from carv_distill.data.stored import spread
from carv_distill.evaluation.grids import save_captioned_grid, save_clip_sheet, save_grid

from .callbacks import Periodic, write_picture

LABEL_COLUMNS, LABEL_ROWS = 16, 8
PROMPT_COLUMNS, PROMPT_ROWS = 12, 4
LEAST_COLUMNS = 4
MOST_PIXELS = 2**24
"""Of a whole grid; pictures are fewer where they are large."""
PIXELS_AT_ONCE = 2**20


class SampleGrid(Periodic):
    """Samples of the averaged network before the first update, every few updates and after the last one.

    The noise of a place is the same in every grid, and of no stream of the training: a run with grids and one
    without train the same.

    Args:
        folder: of the files, named by the update.
        every: updates; 0 turns them off.
        numbers: the label of each column, or the number of its prompt, [C].
        latent: shape of one z.
        size: of a picture, [height, width], or a clip, [frames, height, width], in pixels.
        captions: what stands above the columns, or beside a row for each, where samples are clips.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        numbers: Tensor,
        latent: Sequence[int],
        size: Sequence[int],
        captions: Sequence[str] | None = None,
    ) -> None:
        super().__init__(every, last=True)
        self.folder, self.latent, self.size = folder, tuple(latent), tuple(size)
        most = max(LEAST_COLUMNS, MOST_PIXELS // prod(size))
        columns, rows = (LABEL_COLUMNS, LABEL_ROWS) if captions is None else (PROMPT_COLUMNS, PROMPT_ROWS)
        shown = spread(len(numbers), min(columns, most))
        self.numbers = numbers[torch.tensor(shown)]
        self.captions = None if captions is None else [captions[n] for n in shown]
        self.rows = 1 if len(self.size) == 3 else min(rows, max(1, most // len(shown)))

    @classmethod
    def of_labels(cls, folder: Path, every: int, classes: int, shape: Sequence[int]) -> Self:
        """Of images [C, H, W] with so many labels; without any, all are 0."""
        return cls(folder, every, torch.arange(max(classes, 1)), shape, shape[1:])

    @classmethod
    def of_prompts(
        cls,
        folder: Path,
        every: int,
        texts: Sequence[str],
        drawn: Tensor,
        latent: Sequence[int],
        size: Sequence[int],
    ) -> Self:
        """Of those prompts that are trained on: `texts` by their numbers, of which `drawn` are."""
        numbers = drawn.unique().cpu()
        return cls(folder, every, numbers, latent, size, [texts[n] for n in numbers.tolist()])

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if self.periods and trainer.global_step == 0:
            self.act(trainer, pl_module)

    @torch.no_grad()
    def act(self, trainer: Trainer, module: Any) -> None:
        """All processes make the pictures: a sharded network needs all of them."""
        g = torch.Generator().manual_seed(0)
        z = torch.randn(self.rows, len(self.numbers), *self.latent, generator=g).flatten(0, 1)
        at_once = max(1, PIXELS_AT_ONCE // prod(self.size))
        pictures = [
            to_uint8(module.sample(part.to(module.device), labels.to(module.device)).float()).cpu()
            for part, labels in zip(
                z.split(at_once), self.numbers.repeat(self.rows).split(at_once), strict=True
            )
        ]
        if trainer.global_rank == 0:
            path = self.folder / f"{trainer.global_step:06d}.png"
            self._save(torch.cat(pictures), path)
            write_picture(trainer, path)

    def _save(self, pictures: Tensor, path: Path) -> None:
        if self.captions is None:
            save_grid(pictures, path, columns=len(self.numbers), scale=4)
        elif len(self.size) == 3:
            save_clip_sheet(pictures.transpose(1, 2), self.captions, path)
        else:
            save_captioned_grid(pictures, self.captions, path)
