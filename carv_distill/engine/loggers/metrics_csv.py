"""metrics.csv as it is written while a run goes: one row per logged step."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from carv_distill.engine.metrics import Row, read_metrics
from carv_distill.files import write_text


class MetricsLogger(Logger):
    """A Lightning logger that keeps `metrics.csv`: a row per step, a column per metric.

    Metrics logged at one step share its row; a new metric adds a column. (Lightning's CSVLogger writes a row
    for each call, and removes the file of an earlier attempt.) The newest row is written at the file's end,
    so that a long run does not copy its past at every step; the file is replaced whole where a column is new,
    an older row grows, or a run goes on. A process that is killed may leave half a row at the end, which
    :func:`~carv_distill.engine.metrics.read_metrics` drops.

    Args:
        path: the file.
        resume_step: rows after this step are dropped (the run will write them again).
    """

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        super().__init__()
        self.path = path
        before = read_metrics(path) if resume_step else []
        self.rows = {int(r["step"]): r for r in before if r["step"] <= resume_step}
        self._columns: list[str] = []
        self._last_row = 0
        """Where in the file the newest row begins."""

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
        """Adds to the row of a step and writes it."""
        assert step is not None
        newest = next(reversed(self.rows), -1)
        row = self.rows.setdefault(step, {"step": step})
        row.update(metrics)
        if step < newest or not metrics.keys() <= set(self._columns) or not self.path.is_file():
            self._rewrite()
        else:
            self._write_last(row, new=step > newest)

    def _rewrite(self) -> None:
        self.rows = {step: self.rows[step] for step in sorted(self.rows)}
        self._columns = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        *earlier, last = (self._line(row) for row in self.rows.values())
        before = ",".join(self._columns) + "\n" + "".join(earlier)
        self._last_row = len(before.encode())
        write_text(self.path, before + last)

    def _write_last(self, row: Row, new: bool) -> None:
        with self.path.open("r+b") as file:
            if new:
                self._last_row = file.seek(0, io.SEEK_END)
            file.seek(self._last_row)
            file.write(self._line(row).encode())
            file.truncate()

    def _line(self, row: Row) -> str:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns, restval="", lineterminator="\n").writerow(row)
        return text.getvalue()
