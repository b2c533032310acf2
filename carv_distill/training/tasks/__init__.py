"""One file per task: from its configuration to its module and callbacks."""

from __future__ import annotations

from carv_distill.errors import UserError
from carv_distill.training.schemas import DMDConfig, RunConfig, SDSConfig, TeacherConfig, TextTeacherConfig

from .distil import build_dmd_module, prepare_distillation
from .images import FIDTools
from .pretrain import prepare_pretraining
from .sds import build_sds_module, prepare_sds
from .task import Task
from .text_teacher import prepare_text_teacher

__all__ = ["FIDTools", "Task", "build_dmd_module", "build_sds_module", "prepare"]


def prepare(config: RunConfig, device: str, world_size: int = 1) -> Task:
    """The task that a configuration describes, for one of so many processes.

    All that can be wrong with its input is found here.
    """
    match config:
        case DMDConfig():
            return prepare_distillation(config, device, world_size)
        case TeacherConfig():
            return prepare_pretraining(config, device)
        case TextTeacherConfig():
            return prepare_text_teacher(config, device)
        case SDSConfig():
            return prepare_sds(config, device)
    raise UserError(f"task: {config.task!r} is not known here")
