"""evaluate.py export: makes a run's product anew from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from carv_distill.options import at_least, option

from .command import Command, Measurement, PlaceOptions


@dataclass(frozen=True)
class ExportOptions(PlaceOptions):
    """What `evaluate.py export` is told."""

    run: Path | None = option(None, metavar="FOLDER")
    """default: the newest under --runs"""
    step: int | None = at_least(1, None)
    """update of the checkpoint; default: the newest"""


def _export(options: ExportOptions, runs: list[Path], device: str) -> Measurement | None:
    from carv_distill.engine.console import is_main_process
    from carv_distill.engine.lock import owned
    from carv_distill.engine.run import export

    if not is_main_process():
        return None
    (run,) = runs
    task, config = EXPORT.open(run)
    with owned(run):
        step = export(task, config, task.prepare(config, device, 1), run, device, options.step)
    return Measurement([f"{run / task.product}: as after update {step} of {config.trainer.max_steps}"])


EXPORT = Command(
    "export",
    "makes a run's product anew: student, object or teacher",
    ExportOptions,
    _export,
    "prepare",
    "interrupted; what was there before is kept where its new version was not finished",
)
