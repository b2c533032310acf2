"""What a logger takes of a run besides its metrics."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

from carv_distill.engine.options import RunConfig
from carv_distill.errors import one_line

log = logging.getLogger(__name__)


class RunLogger(ABC):
    """The face of every logger but the one of metrics.csv, beside Lightning's."""

    @abstractmethod
    def log_config(self, config: RunConfig) -> None:
        """Every value of the configuration, at the start of an attempt."""

    @abstractmethod
    def log_picture(self, name: str, path: Path, step: int) -> None:
        """A PNG, one of a series of that name: as what is trained was after an update."""

    @abstractmethod
    def log_result(self, name: str, path: Path, step: int) -> None:
        """What a finished run has: a .png, an .mp4 or a .glb."""

    @abstractmethod
    def log_summary(self, figures: Mapping[str, float]) -> None:
        """What a finished run comes to, beside the last value of each metric."""


class Guard:
    """Keeps a logger's troubles from the run: after the first one it gets nothing more, and that is said.

    Args:
        label: of the logger.
        faults: what its package raises where a server or a disk fails.
    """

    def __init__(self, label: str, *faults: type[Exception]) -> None:
        self.label, self.faults = label, faults
        self.broken = False

    def __call__(self, work: Callable[[], object]) -> None:
        """Does some work for the logger."""
        if self.broken:
            return
        try:
            work()
        except self.faults as error:
            self.broken = True
            log.warning(
                "%s takes nothing more of this run (%s); metrics.csv has all its rows",
                self.label,
                one_line(error),
            )
