"""FID of what is trained, every few updates."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from carv_distill.evaluation.copies import copied_share
from carv_distill.evaluation.fid import FeatureStatistics, frechet_distance, precision_recall
from carv_distill.evaluation.generate import generated_features
from carv_distill.evaluation.prompted import Prompted
from carv_distill.evaluation.reference import FIDSetup
from carv_distill.processes import Processes

from .callbacks import Periodic, write_metrics


class FIDTrace(Periodic):
    """FID, precision, recall and copies of the averaged network before the first update, every few
    updates and after the last one.

    Image i has seed i at every measurement, so the curve moves by training alone. All processes make and
    embed the images, rank 0 measures.

    Args:
        setup: how often, of how many images, with which features.
        prompted: of images with captions.
    """

    def __init__(self, setup: FIDSetup, prompted: Prompted | None = None) -> None:
        super().__init__(setup.options.every, last=True)
        self.fid, self.spec = setup, setup.data.spec
        self.prompted = prompted

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.fid.extractor.to(pl_module.device)
        self.processes = Processes(trainer.global_rank, trainer.world_size, pl_module.device)
        self.reference = self.fid.reference(self.processes)
        if trainer.global_step == 0:
            self.act(trainer, pl_module)

    @torch.no_grad()
    def act(self, trainer: Trainer, module: Any) -> None:
        options = self.fid.options
        sample, spec, latent = module.sample, self.spec, None
        if (p := self.prompted) is not None:
            sample, spec, latent = p.sample(sample), p.spec(spec), p.latent
        features = generated_features(
            sample,
            range(options.images),
            spec,
            self.fid.extractor,
            processes=self.processes,
            labels=options.labels,
            latent=latent,
        )
        # checkpoints are kept by FID: every process must know the same one
        values = self.processes.tell(self._scores(features) if self.processes.rank == 0 else {})
        write_metrics(trainer, values)
        if trainer.global_step:
            module.log("fid", values["fid/fid"], logger=False)

    def _scores(self, features: Tensor) -> dict[str, float]:
        fid = frechet_distance(FeatureStatistics.from_features(features), self.reference.statistics)
        if self.reference.features is None:
            return {"fid/fid": fid}
        generated, reference = features.double(), self.reference.features.double()
        precision, recall = precision_recall(generated, reference)
        scores = {"fid/fid": fid, "fid/precision": precision, "fid/recall": recall}
        scores["fid/copied"] = copied_share(generated, reference)
        if self.prompted is not None and self.prompted.recognition is not None:
            numbers = self.prompted.numbers(range(len(features)), self.fid.options.labels)
            clip, recognised = self.prompted.recognition.scores(features, numbers)
            scores |= {"fid/clip": clip, "fid/recognised": recognised}
        return scores
