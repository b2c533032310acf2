"""One-step distillation as a task."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from carv_distill.engine.task import Task, TrainedModel
from carv_distill.errors import UserError

from .options import DMDConfig


def _preparation() -> ModuleType:
    from . import preparation  # torch and Lightning, which a configuration is checked without

    return preparation


def _check(config: DMDConfig) -> None:
    config.estimator.check("dmd", refused="weighting")
    config.data.require_labelled()
    if config.dmd.gan.student_weight and not config.dmd.gan.on:
        raise UserError(
            f"dmd.gan.fake_weight: 0, but dmd.gan.student_weight is {config.dmd.gan.student_weight:g}; a "
            "discriminator that does not learn has nothing to say (give a weight above 0)"
        )
    if config.teacher.precision == "bfloat16" and config.trainer.precision == "64-true":
        raise UserError("teacher.precision: bfloat16 does not go with trainer.precision: 64-true")


def _model(config: DMDConfig, run: Path, step: int | None) -> TrainedModel:
    if step is not None:
        raise UserError(f"--checkpoints: {run} is of task dmd; only a teacher's are read")
    return TrainedModel(config.teacher.path, config.data, student=run / "student")


DMD = Task(
    name="dmd",
    config=DMDConfig,
    example="dmd_carv.yaml",
    product="student",
    prepare=lambda config, device, processes: _preparation().prepare(config, device, processes),
    out_of_memory="a smaller estimator.upstream (with dmd.global_batch for the same batch) or dmd.fake_batch",
    check=_check,
    fixed_length=lambda config: config.dmd.lr_decay != "none",
    gradient=lambda config, run, device, step: _preparation().measured_gradient(config, run, device, step),
    generators=lambda config, run, device: _preparation().generators(config, run, device),
    model=_model,
)
