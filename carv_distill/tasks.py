"""The list of tasks."""

from __future__ import annotations

from typing import Any

from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.options import RunConfig
from carv_distill.errors import UserError
from carv_distill.teacher_training.image_options import TeacherConfig
from carv_distill.teacher_training.text_options import TextTeacherConfig
from carv_distill.text_to_3d.options import SDSConfig

SCHEMAS: dict[str, type[RunConfig]] = {
    "dmd": DMDConfig,
    "teacher": TeacherConfig,
    "text_teacher": TextTeacherConfig,
    "sds": SDSConfig,
}


def prepare(config: RunConfig, device: str, world_size: int = 1) -> Any:
    match config:
        case DMDConfig():
            from carv_distill.distillation.task import prepare_distillation

            return prepare_distillation(config, device, world_size)
        case TeacherConfig():
            from carv_distill.teacher_training.image_task import prepare_pretraining

            return prepare_pretraining(config, device)
        case TextTeacherConfig():
            from carv_distill.teacher_training.text_task import prepare_text_teacher

            return prepare_text_teacher(config, device)
        case SDSConfig():
            from carv_distill.text_to_3d.task import prepare_sds

            return prepare_sds(config, device)
    raise UserError(f"task: {config.task!r} is not known here")
