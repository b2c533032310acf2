"""The page of a run, while it goes."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only

from carv_distill.engine.callbacks import Periodic
from carv_distill.engine.task import PageWords

from .write import keep_report

SECONDS = 60.0
"""Between two writings, at least, so that the page takes no part of the training worth naming."""


class ReportPage(Periodic):
    """Writes report.html at every checkpoint, but not more often than once a minute.

    Args:
        run: folder.
        every: updates between two checkpoints.
        words: of its task.
    """

    def __init__(self, run: Path, every: int, words: PageWords) -> None:
        super().__init__(every)
        self.run, self.words, self.before = run, words, -math.inf

    @rank_zero_only
    def act(self, trainer: Trainer, module: Any) -> None:
        if time.monotonic() - self.before < SECONDS:
            return
        keep_report(self.run, None, self.words)
        self.before = time.monotonic()
