"""What a finished run has, in its loggers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from carv_distill.engine.folder import SUMMARY
from carv_distill.engine.options import RunConfig
from carv_distill.files import read_json

from .face import RunLogger


class Results(Callback):
    """Hands a run's results to its loggers at the end; comes after what makes them.

    Args:
        run: folder.
        product: its sub-folder of what was made, and the files there that are to be seen.
    """

    def __init__(self, run: Path, product: str, media: Sequence[str]) -> None:
        self.run, self.product, self.media = run, product, media

    @rank_zero_only
    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        log_results(trainer.loggers, self.run, self.product, self.media, trainer.global_step)


def log_config(loggers: Iterable[Logger], config: RunConfig) -> None:
    """The configuration of an attempt."""
    for logger in loggers:
        if isinstance(logger, RunLogger):
            logger.log_config(config)


def log_results(loggers: Iterable[Logger], run: Path, product: str, media: Sequence[str], step: int) -> None:
    """The product's media that are there, the run's figures, and what it comes to, as after an update."""
    files = [run / product / name for name in media] + sorted((run / "figures").glob("*.png"))
    figures = summary_figures(read_json(run / SUMMARY))
    for logger in loggers:
        if isinstance(logger, RunLogger):
            for path in files:
                if path.is_file():
                    logger.log_result(f"{path.parent.name}/{path.stem}", path, step)
            logger.log_summary(figures)


def summary_figures(summary: dict[str, Any]) -> dict[str, float]:
    """The figures of a summary.json that are no metric's last value, which loggers have by themselves."""
    figures = {"product_step": summary.get("product_step")}
    if best := summary.get("best_fid"):
        figures |= {"best_fid": best["fid"], "best_fid_step": best["step"]}
    return {name: value for name, value in figures.items() if value is not None}
