"""The list of tasks, and the engine's functions handed it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from carv_distill.distillation.task import DMD
from carv_distill.engine import config as engine_config
from carv_distill.engine import folder as engine_folder
from carv_distill.engine import resume as engine_resume
from carv_distill.engine.options import RunConfig
from carv_distill.engine.task import Task
from carv_distill.teacher_training.task import PIXEL_TEACHER, TEACHER, TEXT_TEACHER, VIDEO_TEACHER
from carv_distill.text_to_3d.task import SDS

TASKS: dict[str, Task] = {
    task.name: task for task in (DMD, TEACHER, TEXT_TEACHER, PIXEL_TEACHER, VIDEO_TEACHER, SDS)
}


load_config = partial(engine_config.load_config, TASKS)
config_from_dict = partial(engine_config.config_from_dict, TASKS)
open_run = partial(engine_folder.open_run, TASKS)


def run_to_resume(config: RunConfig, source: Path | None = None) -> Path:
    """See :func:`carv_distill.engine.resume.run_to_resume`."""
    return engine_resume.run_to_resume(TASKS[config.task], config, source)


def train(config: RunConfig, resume: bool = False, requeue: bool = False) -> Path:
    """Trains what the configuration describes, with its report; see
    :func:`carv_distill.engine.run.execute`."""
    from carv_distill.engine.run import execute  # Lightning, for which a mistake should not wait
    from carv_distill.report.callback import ReportPage

    task = TASKS[config.task]

    def report(folder: Path) -> ReportPage:
        return ReportPage(folder, config.checkpoint.every, task.words)

    return execute(task, config, resume, requeue, report)
