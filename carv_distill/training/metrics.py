"""metrics.csv: one row per logged step."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from carv_distill.files import write_text

Row = dict[str, float]


class MetricsLogger(Logger):
    """A Lightning logger that keeps `metrics.csv`: a row per step, a column per metric.

    Metrics logged at one step share its row; a new metric adds a column. The file is replaced whole, so
    it never holds half a row.

    Args:
        path: the file.
        resume_step: rows after this step are dropped (the run will write them again).
    """

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        super().__init__()
        self.path = path
        self.rows = {int(r["step"]): r for r in read_metrics(path) if r["step"] <= resume_step}

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's folder has config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds to the row of a step and rewrites the file."""
        assert step is not None
        self.rows.setdefault(step, {"step": step}).update(metrics)
        columns = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows[step] for step in sorted(self.rows))
        write_text(self.path, text.getvalue())


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics.csv, empty cells left out; no rows for a file that is not there."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    for row in rows:
        row["step"] = int(row["step"])
    return rows
