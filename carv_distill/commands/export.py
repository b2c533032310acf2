"""evaluate.py export: makes a run's product anew from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from carv_distill.engine.task import Task
from carv_distill.options import as_in, at_least, check_limits, option
from carv_distill.text_to_3d.options import ExportOptions as ObjectOptions

from .command import Command, Measurement, PlaceOptions
from .report import renew_page


@dataclass(frozen=True)
class ExportOptions(PlaceOptions):
    """What `evaluate.py export` is told."""

    run: Path | None = option(None, metavar="FOLDER")
    """default: the newest under --runs"""
    step: int | None = at_least(1, None)
    """update of the checkpoint; default: the newest"""
    frames: int | None = as_in(ObjectOptions, "frames")
    """of an object's turntable; default of this and the next: as the run's export section says"""
    size: int | None = as_in(ObjectOptions, "size")
    """pixels of its pictures along one side"""
    background: str | None = as_in(ObjectOptions, "background")
    """behind it"""
    mesh: int | None = as_in(ObjectOptions, "mesh")
    """points of its mesh's grid along one side"""
    faces: int | None = as_in(ObjectOptions, "faces")
    """the most that its mesh has"""
    texture: int | None = as_in(ObjectOptions, "texture")
    """texels of its texture along one side; 0: none"""
    memory: float | None = as_in(ObjectOptions, "memory")
    """GiB that a picture or the mesh may take"""

    @property
    def of_objects(self) -> dict[str, Any]:
        """What is given of an object's export section."""
        names = {spec.name for spec in fields(ObjectOptions)} & {spec.name for spec in fields(self)}
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def apply(self, config: Any) -> None:
        """Puts what is given into the configuration of an object's run; UserError for a value that is not
        allowed."""
        if given := self.of_objects:
            config.export = replace(config.export, **given)
            check_limits(config)


def _export(options: ExportOptions, runs: list[Path], device: str) -> Measurement | None:
    from carv_distill.engine.console import is_main_process
    from carv_distill.engine.folder import product_step
    from carv_distill.engine.lock import owned
    from carv_distill.engine.run import export

    if not is_main_process():
        return None
    (run,) = runs
    task, config = EXPORT.open(run, options)
    options.apply(config)
    product = run / task.product
    with owned(run):
        before = product_step(run) if product.is_dir() else None
        step = export(task, config, run, device, options.step, None)
    page = renew_page(run)
    instead = "" if before is None else f", in place of that of update {before}"
    of = f"update {step} of {config.trainer.max_steps}"
    made = f"made anew: {product}, from the checkpoint of {of}{instead}"
    return Measurement([made, *([f"a page to open: {page}"] if page else [])])


def _refusal(task: Task, config: Any, options: ExportOptions) -> str:
    given = ", ".join(f"--{name}" for name in sorted(options.of_objects))
    if given and not task.renders:
        return f"{given}: of objects alone; this run is of task {task.name}, which makes a {task.product}"
    return ""


EXPORT = Command(
    "export",
    "makes a run's product anew: student, object or teacher",
    ExportOptions,
    _export,
    "prepare",
    "interrupted; what was there before is kept where its new version was not finished",
    _refusal,
)
