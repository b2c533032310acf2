"""One-step distillation as a task."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from carv_distill.engine.task import Task, TrainedModel
from carv_distill.errors import UserError

from .options import DMDConfig, DMDOptions, GANOptions


def _preparation() -> ModuleType:
    from . import preparation  # torch and Lightning, which a configuration is checked without

    return preparation


def _check(config: DMDConfig) -> None:
    config.estimator.check("dmd", refused="weighting")
    config.data.require_labelled()
    o = config.dmd
    _check_discriminator(o.gan)
    if o.t_min >= o.t_max:
        raise UserError(f"dmd.t_min: {o.t_min:g} is not below dmd.t_max, {o.t_max:g}")
    _check_averages(o)
    for key, value in (
        ("teacher.precision", config.teacher.precision),
        ("dmd.residual_precision", o.residual_precision),
    ):
        if value == "bfloat16" and config.trainer.precision == "64-true":
            raise UserError(f"{key}: bfloat16 does not go with trainer.precision: 64-true")


def _check_discriminator(gan: GANOptions) -> None:
    for key, weight in (("student_weight", gan.student_weight), ("r1_weight", gan.r1_weight)):
        if weight and not gan.on:
            raise UserError(
                f"dmd.gan.fake_weight: 0, but dmd.gan.{key} is {weight:g}; a discriminator that does not "
                "learn has nothing to say (give a weight above 0)"
            )
    own = {"lr": gan.lr, "beta1": gan.beta1, "beta2": gan.beta2}
    given = [key for key, value in own.items() if value is not None]
    if given and gan.optimiser == "fake":
        raise UserError(
            f"dmd.gan.{given[0]}: {own[given[0]]:g} is for dmd.gan.optimiser: own; with fake the "
            "discriminator has the fake score's"
        )


def _check_averages(o: DMDOptions) -> None:
    """Averages have their decay for a name."""
    names = [f"{decay:g}" for decay in o.ema_beside]
    for decay, name in zip(o.ema_beside, names, strict=True):
        if not 0 < decay < 1:
            raise UserError(f"dmd.ema_beside: {decay} is not between 0 and 1")
        if names.count(name) > 1 or (o.ema_half_life is None and name == f"{o.ema:g}"):
            raise UserError(f"dmd.ema_beside: {name} is there twice, or dmd.ema has it already")


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
