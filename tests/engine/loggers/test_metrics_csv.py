"""metrics.csv: rows merge by step, columns grow, a resume drops what comes after it."""

from __future__ import annotations

from pathlib import Path

from carv_distill.engine.loggers.metrics_csv import MetricsLogger
from carv_distill.engine.metrics import read_metrics


def test_rows_merge_and_columns_grow(tmp_path: Path) -> None:
    log = MetricsLogger(tmp_path / "metrics.csv")
    log.log_metrics({"a": 1.5}, 10)
    log.log_metrics({"b": 2.0}, 20)
    log.log_metrics({"b": 3.0}, 10)
    assert read_metrics(tmp_path / "metrics.csv") == [
        {"step": 10, "a": 1.5, "b": 3.0},
        {"step": 20, "b": 2.0},
    ]
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == "step,a,b"


def test_a_resumed_log_drops_later_rows_and_keeps_the_digits(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log = MetricsLogger(path)
    for step in (1, 2, 3):
        log.log_metrics({"x": step / 3}, step)
    whole = path.read_bytes()
    resumed = MetricsLogger(path, resume_step=2)
    resumed.log_metrics({"x": 3 / 3}, 3)
    assert path.read_bytes() == whole
    fresh = MetricsLogger(path, resume_step=1)
    fresh.log_metrics({"x": 0.0}, 9)
    assert [r["step"] for r in read_metrics(path)] == [1, 9]


def test_a_row_is_written_without_the_rows_before_it(tmp_path: Path) -> None:
    """Once the columns are known, the file grows at its end, and holds what a rewrite would."""
    path = tmp_path / "metrics.csv"
    log = MetricsLogger(path)
    log.log_metrics({"a": 0.1, "b": 1.0}, 1)
    place = path.stat().st_ino
    log.log_metrics({"a": 1e-7}, 2)
    log.log_metrics({"b": 2.0}, 2)  # of the same row, later
    log.log_metrics({"a": 123456.0}, 3)
    log.log_metrics({"a": 4.0}, 3)  # shorter than what it replaces
    assert path.stat().st_ino == place
    assert path.read_text() == "step,a,b\n1,0.1,1.0\n2,1e-07,2.0\n3,4.0,\n"
    log.log_metrics({"b": 5.0}, 1)  # an older row
    assert path.stat().st_ino != place
    log.log_metrics({"a": 6.0}, 4)
    assert path.read_text() == "step,a,b\n1,0.1,5.0\n2,1e-07,2.0\n3,4.0,\n4,6.0,\n"
    path.unlink()
    log.log_metrics({"a": 7.0}, 4)
    assert path.read_text() == "step,a,b\n1,0.1,5.0\n2,1e-07,2.0\n3,4.0,\n4,7.0,\n"


def test_half_a_row_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log = MetricsLogger(path)
    for step in (1, 2):
        log.log_metrics({"a": step + 0.25, "b": 1.0}, step)
    whole = path.read_bytes()
    for cut in range(1, 8):
        path.write_bytes(whole[:-cut])
        assert read_metrics(path) == [{"step": 1, "a": 1.25, "b": 1.0}]
    resumed = MetricsLogger(path, resume_step=1)
    resumed.log_metrics({"a": 2.25, "b": 1.0}, 2)
    assert path.read_bytes() == whole
