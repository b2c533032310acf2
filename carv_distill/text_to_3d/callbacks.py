"""What a text-to-3D run shows of its object: CLIP score, previews, files at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from carv_distill.engine.callbacks import write_metrics
from carv_distill.evaluation.clip import ClipScorer
from carv_distill.evaluation.grids import save_grid

from .export import pictures, turntable, write_mesh, write_turntable
from .module import SDSModule
from .options import ExportOptions


class ClipTrace(Callback):
    """Measures the CLIP score of views around the object every few steps, and after the last one.

    Columns: ``clip/score`` with ``_low`` and ``_high`` (95 %, over the views).
    """

    def __init__(self, every: int, scorer: ClipScorer, prompt: str, views: int) -> None:
        self.every, self.scorer, self.prompt, self.views = every, scorer, prompt, views

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self._measure(trainer, pl_module)

    @rank_zero_only
    def _measure(self, trainer: Trainer, module: SDSModule) -> None:
        v = module.view
        images = pictures(module.scene, turntable(self.views), v.size, v.samples, v.background)
        score = self.scorer.mean(2 * images - 1, self.prompt)
        values = {"clip/score": score.value, "clip/score_low": score.low, "clip/score_high": score.high}
        write_metrics(trainer, values)
        module.log("clip/score", score.value, logger=False, rank_zero_only=True)


class ViewGrid(Callback):
    """Eight views around the object, every few steps."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            self._draw(trainer.global_step, pl_module)

    @rank_zero_only
    def _draw(self, step: int, module: SDSModule) -> None:
        v = module.view
        images = pictures(module.scene, turntable(8), 2 * v.size, v.samples, v.background)
        save_grid(2 * images - 1, self.folder / f"{step:06d}.png", columns=8)


class ObjectExport(Callback):
    """Turntable, sheet of views and mesh of the finished object."""

    def __init__(self, folder: Path, options: ExportOptions) -> None:
        self.folder, self.options = folder, options

    @rank_zero_only
    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        module: SDSModule = pl_module
        o = self.options
        module.save(self.folder)  # the field first: whatever fails below, it is there
        write_mesh(self.folder, module.scene, o.mesh)
        write_turntable(self.folder, module.scene, module.view, o.frames, o.size)
