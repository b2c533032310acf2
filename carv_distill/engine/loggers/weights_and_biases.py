"""Weights & Biases: offline in the run's wandb/, or on a server."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from carv_distill.engine.config import to_dict
from carv_distill.engine.options import RunConfig
from carv_distill.errors import UserError, one_line

from .face import Guard, RunLogger
from .ledger import Ledger

log = logging.getLogger(__name__)

NAME = "wandb.json"
MODE, PROJECT = "WANDB_MODE", "WANDB_PROJECT"
MEDIA = {
    ".png": wandb.Image,
    ".mp4": lambda path: wandb.Video(path, format="mp4"),
    ".glb": wandb.Object3D,
}


class WeightsAndBiases(WandbLogger, RunLogger):
    """Lightning's logger with the run's own steps, pictures and results.

    The project has the task's name, unless WANDB_PROJECT says another. Nothing leaves the machine unless
    WANDB_MODE=online is set; only the main process makes one.

    Raises:
        UserError: W&B does not begin the run, as without an account or a network online.
    """

    def __init__(self, run: Path, config: RunConfig) -> None:
        self._ledger = Ledger(run / NAME)
        self._guard = Guard("W&B", wandb.errors.Error, OSError)
        super().__init__(
            name=config.name,
            save_dir=run,
            id=self._ledger.id,
            project=os.environ.get(PROJECT) or config.task,
            mode=os.environ.get(MODE, "offline"),
            settings=wandb.Settings(console="off", silent=True),
        )
        self._wandb_init.pop("anonymous")  # Lightning gives it, and W&B warns of it
        try:
            experiment = self.experiment
        except wandb.errors.Error as error:
            why = f"W&B does not begin ({one_line(error)})"
            raise UserError(f"trainer.loggers: wandb: {why}; {MODE}=offline keeps the run here") from error
        self._ledger.begin(experiment.id)
        if getattr(experiment, "offline", False):
            place = Path(experiment.dir).parent
            log.info("W&B: offline; wandb sync %s uploads it, %s=online does so at once", place, MODE)
        else:
            log.info("W&B: %s", experiment.url)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds to the row of a step, which no earlier attempt has logged."""
        assert step is not None
        if self._ledger.is_new(step):
            self._log(dict(metrics), step)

    @rank_zero_only
    def log_config(self, config: RunConfig) -> None:
        self._guard(lambda: self.experiment.config.update(to_dict(config), allow_val_change=True))

    @rank_zero_only
    def log_picture(self, name: str, path: Path, step: int) -> None:
        if self._ledger.is_new(step):
            self._log({name: wandb.Image(str(path))}, step)

    @rank_zero_only
    def log_result(self, name: str, path: Path, step: int) -> None:
        # a product that is made anew comes after all that earlier attempts have logged: steps only rise there
        at = step if self._ledger.is_new(step) else self._ledger.next
        self._log({name: MEDIA[path.suffix](str(path))}, at)

    @rank_zero_only
    def log_summary(self, figures: Mapping[str, float]) -> None:
        self._guard(lambda: self.experiment.summary.update(dict(figures)))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Ends the run there."""
        self._guard(lambda: self.experiment.finish(exit_code=0 if status == "success" else 1))

    def _log(self, values: dict[str, Any], step: int) -> None:
        def work() -> None:
            # trainer/global_step is the axis that Lightning's logger defines for W&B's charts
            self.experiment.log({**values, "trainer/global_step": step}, step=step)
            self._ledger.reach(step)

        self._guard(work)
