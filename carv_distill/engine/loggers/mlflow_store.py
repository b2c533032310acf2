"""MLflow: a SQLite file beside the runs, or a server."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from carv_distill.engine.config import flat
from carv_distill.engine.folder import CONFIG, SUMMARY
from carv_distill.engine.options import RunConfig
from carv_distill.errors import UserError, one_line

from .face import Guard, RunLogger
from .ledger import Ledger

log = logging.getLogger(__name__)
logging.getLogger("mlflow").setLevel(logging.WARNING)

NAME = "mlflow.json"
URI, EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
STORE, ARTIFACTS = "mlflow.db", "mlflow-artifacts"
EVERY = 5.0
"""Seconds between two batches of metrics: one takes 5 to 30 ms, on a server more."""
METRICS_AT_ONCE = 1000
"""That MLflow takes."""


class MLflow(MLFlowLogger, RunLogger):
    """Lightning's logger with metrics in batches, pictures and results; files lie as in the run's folder.

    The experiment has the task's name, unless MLFLOW_EXPERIMENT_NAME says another; the store is mlflow.db
    beside the runs, unless MLFLOW_TRACKING_URI names one. Only the main process makes one.

    Raises:
        UserError: the store cannot be used, or does not have the run that is gone on with.
    """

    def __init__(self, run: Path, config: RunConfig) -> None:
        self._run, self._ledger = run, Ledger(run / NAME)
        self._guard = Guard("MLflow", MlflowException, OSError)
        self._rows: list[Metric] = []
        self._written = time.monotonic()
        beside, named = run.resolve().parent, os.environ.get(URI)
        try:
            super().__init__(
                experiment_name=os.environ.get(EXPERIMENT) or config.task,
                run_name=config.name,
                run_id=self._ledger.id,
                tracking_uri=named or f"sqlite:///{beside / STORE}",
                artifact_location=None if named else (beside / ARTIFACTS).as_uri(),
            )
            self._begin(named)
        except MlflowException as error:
            where = named or beside / STORE
            why = f"MLflow does not begin with {where} ({one_line(error)})"
            remedy = f"; without {run / NAME} it is logged as a new run" if self._ledger.id else ""
            raise UserError(f"trainer.loggers: mlflow: {why}{remedy}") from error
        log.info(
            "MLflow: run %s of experiment %s in %s", self.run_id, self._experiment_name, self._tracking_uri
        )

    def _begin(self, named: str | None) -> None:
        again = self._run_id is not None
        try:
            run_id = self.run_id  # makes the run; and sets the variable, for the whole process
        finally:
            if named is None:
                os.environ.pop(URI, None)
        assert run_id is not None
        if again:
            self.experiment.update_run(run_id, status="RUNNING")
        self._ledger.begin(run_id)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds metrics of a step that no earlier attempt has logged; they are written in batches."""
        assert step is not None
        if self._ledger.is_new(step):
            now = int(1000 * time.time())
            self._rows += [Metric(name, float(value), now, step) for name, value in metrics.items()]
            if time.monotonic() - self._written > EVERY:
                self.save()

    @rank_zero_only
    def save(self) -> None:
        """Writes the metrics that wait for it."""
        rows, self._rows = self._rows, []

        def work() -> None:
            for start in range(0, len(rows), METRICS_AT_ONCE):
                self.experiment.log_batch(self.run_id, metrics=rows[start : start + METRICS_AT_ONCE])
            self._ledger.reach(rows[-1].step)

        if rows:
            self._guard(work)
        self._written = time.monotonic()

    @rank_zero_only
    def log_config(self, config: RunConfig) -> None:
        """As parameters, which MLflow never changes; as config.yaml, which is that of the last attempt."""

        def work() -> None:
            known = self.experiment.get_run(self.run_id).data.params
            self.log_hyperparams({key: str(v) for key, v in flat(config).items() if key not in known})
            self.experiment.log_artifact(self.run_id, str(self._run / CONFIG))

        self._guard(work)

    @rank_zero_only
    def log_picture(self, name: str, path: Path, step: int) -> None:
        self.log_result(name, path, step)

    @rank_zero_only
    def log_result(self, name: str, path: Path, step: int) -> None:
        self._guard(lambda: self.experiment.log_artifact(self.run_id, str(path), path.parent.name))

    @rank_zero_only
    def log_summary(self, figures: Mapping[str, float]) -> None:
        def work() -> None:
            for name, value in figures.items():
                self.experiment.log_metric(self.run_id, name, value)
            self.experiment.log_artifact(self.run_id, str(self._run / SUMMARY))

        self._guard(work)

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Writes what waits, and ends the run there."""
        self.save()
        self._guard(lambda: super(MLflow, self).finalize(status))
