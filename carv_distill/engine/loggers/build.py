"""The loggers that a run asks for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from lightning.pytorch.loggers import Logger

from carv_distill.command_line import EXTRAS
from carv_distill.engine.console import is_main_process
from carv_distill.engine.folder import METRICS
from carv_distill.engine.metrics import Row
from carv_distill.engine.options import RunConfig, TrainerOptions
from carv_distill.errors import UserError, one_line

from .metrics_csv import MetricsLogger

HOME_CALLS = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}
"""So that the packages do not report their own use and errors to their makers, which they do from everywhere
unless the environment says otherwise."""


def require_loggers(options: TrainerOptions) -> None:
    """UserError where a logger's package is not installed, or does not load."""
    for variable, value in HOME_CALLS.items():
        os.environ.setdefault(variable, value)
    for name in options.loggers:
        for package in EXTRAS.get(name, ()):
            try:
                import_module(package)
            except ImportError as error:
                missing = isinstance(error, ModuleNotFoundError) and error.name == package
                fault = "is not installed" if missing else f"does not load ({one_line(error)})"
                remedy = f"pip install -U 'carv-distill[{name}]' brings it"
                raise UserError(
                    f"trainer.loggers: {name}: the package {package} {fault}; {remedy}"
                ) from error


def build_loggers(config: RunConfig, run: Path, resume_step: int = 0) -> list[Logger]:
    """That of metrics.csv, which comes first and has everything, and the others; these on the main process
    alone.

    Args:
        resume_step: of the checkpoint that is gone on with; 0: none.

    Raises:
        UserError: one of them cannot begin.
    """
    metrics = MetricsLogger(run / METRICS, resume_step)
    loggers: list[Logger] = [metrics]
    if not is_main_process():
        return loggers
    for name in config.trainer.loggers:
        if name == "tensorboard":
            from .tensorboard import TensorBoard

            loggers.append(TensorBoard(run, resume_step))
        elif name == "wandb":
            from .weights_and_biases import WeightsAndBiases

            loggers.append(caught_up(WeightsAndBiases(run, config), metrics.rows))
        else:
            from .mlflow_store import MLflow

            loggers.append(caught_up(MLflow(run, config), metrics.rows))
    return loggers


def caught_up(logger: Logger, rows: Mapping[int, Row]) -> Logger:
    """With those rows of earlier attempts that it lacks: it was asked for later, or an end was lost."""
    for step, row in rows.items():
        logger.log_metrics({name: value for name, value in row.items() if name != "step"}, step)
    return logger
