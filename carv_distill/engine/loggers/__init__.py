"""Where a run can be followed beside its metrics.csv: a file for each logger, and what all have in common."""

from .build import build_loggers, require_loggers
from .face import RunLogger
from .results import Results, log_config, log_results

__all__ = ["Results", "RunLogger", "build_loggers", "log_config", "log_results", "require_loggers"]
