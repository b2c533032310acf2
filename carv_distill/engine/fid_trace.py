"""The trace of FID."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from carv_distill.data.spec import ImageSpec
from carv_distill.engine.callbacks import write_metrics
from carv_distill.evaluation.features import FeatureExtractor
from carv_distill.evaluation.fid import FeatureStatistics, frechet_distance, precision_recall
from carv_distill.evaluation.generate import generated_features
from carv_distill.evaluation.grids import save_grid
from carv_distill.evaluation.reference import Reference
from carv_distill.processes import Processes

GRID_ROWS = 8


class FIDTrace(Callback):
    """FID, precision and recall of the averaged network every few updates, and a grid of its samples.

    Image i has seed i at every measurement, so the curve moves by training alone. All processes make and
    embed the images, rank 0 measures.

    Args:
        every: updates between two measurements; the last one is measured too.
        images: how many.
        spec: their shape and classes.
        extractor: of the features.
        reference: makes the reference when training starts, by all processes together.
        samples: folder for the grids.
        labels: turn or random; see :func:`carv_distill.evaluation.generate.image_latents`.
    """

    def __init__(
        self,
        every: int,
        images: int,
        spec: ImageSpec,
        extractor: FeatureExtractor,
        reference: Callable[[Processes], Reference],
        samples: Path,
        labels: str = "turn",
    ) -> None:
        self.every, self.images, self.spec, self.labels = every, images, spec, labels
        self.extractor, self.samples = extractor, samples
        self._make_reference = reference

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.extractor.to(pl_module.device)
        self.processes = Processes(trainer.global_rank, trainer.world_size, pl_module.device)
        self.reference = self._make_reference(self.processes)
        if trainer.global_step == 0:
            self._measure(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self._measure(trainer, pl_module)

    def _measure(self, trainer: Trainer, pl_module: Any) -> None:
        with torch.no_grad():
            features = generated_features(
                pl_module.sample,
                range(self.images),
                self.spec,
                self.extractor,
                processes=self.processes,
                labels=self.labels,
            )
            self._draw(trainer.global_step, pl_module)
        # checkpoints are kept by FID: every process must know the same one
        values = self.processes.tell(self._scores(features) if self.processes.rank == 0 else {})
        write_metrics(trainer, values)
        if trainer.global_step:
            pl_module.log("fid", values["fid/fid"], logger=False)

    def _scores(self, features: Tensor) -> dict[str, float]:
        fid = frechet_distance(FeatureStatistics.from_features(features), self.reference.statistics)
        values = {"fid/fid": fid}
        if self.reference.features is not None:
            real = self.reference.features.double()
            precision, recall = precision_recall(features.double(), real)
            values |= {"fid/precision": precision, "fid/recall": recall}
        return values

    @rank_zero_only
    def _draw(self, step: int, pl_module: Any) -> None:
        classes = max(self.spec.classes, 1)
        g = torch.Generator().manual_seed(0)
        z = torch.randn(GRID_ROWS, classes, *self.spec.shape, generator=g).flatten(0, 1)
        labels = torch.arange(classes).repeat(GRID_ROWS)
        images: Tensor = pl_module.sample(z.to(pl_module.device), labels.to(pl_module.device))
        save_grid(images.float().cpu(), self.samples / f"{step:06d}.png", columns=classes, scale=4)
