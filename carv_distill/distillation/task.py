"""One-step distillation as a task."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from types import ModuleType

from carv_distill.data.options import CAPTIONED, DATA_SETS, PROMPTED
from carv_distill.engine.folder import CONFIG
from carv_distill.engine.task import Generator, PageWords, Task, TrainedModel
from carv_distill.errors import UserError

from .options import DMDConfig, DMDOptions, GANOptions


def _preparation() -> ModuleType:
    from . import preparation  # torch and Lightning, which a configuration is checked without

    return preparation


def _check(config: DMDConfig) -> None:
    config.estimator.check("dmd", refused="weighting")
    _check_data(config)
    o = config.dmd
    _check_discriminator(o.gan)
    if o.t_min >= o.t_max:
        raise UserError(f"dmd.t_min: {o.t_min:g} is not below dmd.t_max, {o.t_max:g}")
    _check_averages(o)
    if o.compile and config.trainer.sharding != "none":
        raise UserError(
            f"dmd.compile: true does not go with trainer.sharding: {config.trainer.sharding} (allowed: false)"
        )
    _check_memory(config)
    for key, value in (
        ("teacher.precision", config.teacher.precision),
        ("dmd.residual_precision", o.residual_precision),
    ):
        if value in ("bfloat16", "float16") and config.trainer.precision == "64-true":
            raise UserError(f"{key}: {value} does not go with trainer.precision: 64-true")


def _check_memory(config: DMDConfig) -> None:
    """What lowers memory where networks are whole, and in float32."""
    o, trainer = config.dmd, config.trainer
    for key, value, allowed in (
        ("dmd.ema_memory", o.ema_memory, "device"),
        ("dmd.optimiser", o.optimiser, "adamw"),
    ):
        if value != allowed and trainer.sharding != "none":
            raise UserError(
                f"{key}: {value} does not go with trainer.sharding: {trainer.sharding}, where each process "
                f"has a part of it (allowed: {allowed})"
            )
    if o.optimiser == "adamw_8bit" and trainer.precision == "64-true":
        raise UserError(
            "dmd.optimiser: adamw_8bit does not go with trainer.precision: 64-true (allowed: adamw)"
        )


def _check_data(config: DMDConfig) -> None:
    """Which data there must be, and what is said of prompts alone."""
    o, t = config.dmd, config.teacher
    if config.data.name in CAPTIONED:
        # without prompts and captions there is something left to be given, as building.load_data says
        if config.fid.every or o.gan.on or config.data.path is not None or config.data.name != "captioned":
            config.data.require_captioned()
        if t.guidance == 0:
            raise UserError("teacher.guidance: 0 leaves the prompts out; allowed are values above 0")
        if o.compile and o.adapters.kind != "none":
            raise UserError("dmd.compile: true does not go with dmd.adapters.kind: lora; leave one out")
        return
    config.data.require_labelled(config.needs_images)
    only_prompts: dict[str, object] = {
        "prompts.path": config.prompts.path,
        "dmd.student_timestep": o.student_timestep,
        "teacher.negative_prompt": t.negative_prompt or None,
        "teacher.size": t.size or None,
        "dmd.adapters.kind": o.adapters.kind if o.adapters.kind != "none" else None,
        "dmd.gan.latents": o.gan.latents if o.gan.latents != "cached" else None,
        "dmd.gan.cache": o.gan.cache,
        "dmd.gradient_checkpointing": o.gradient_checkpointing or None,
        "teacher.precision": t.precision if t.precision == "float16" else None,
    }
    for key, value in only_prompts.items():
        if value is not None:
            raise UserError(
                f"{key}: {value} is for teachers with prompts, and data.name: {config.data.name} has labels "
                f"(with captions: {', '.join(CAPTIONED)})"
            )


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
    assert step is None
    return TrainedModel(config.teacher.path, config.data, student=run / "student")


def _no_model(config: DMDConfig) -> str:
    """Of a text-to-image student, with a command for its teacher; and where the pictures that the teacher
    learned from are not here, which a student's training does without."""
    teacher, data = Path(config.teacher.path), config.data
    if data.name not in CAPTIONED:
        if config.needs_images or data.found:
            return ""
        needs = DATA_SETS[data.name].needs
        return f"the pictures that its teacher learned from are not here: {data.name} {needs}"
    if data.name in PROMPTED and (teacher.parent / CONFIG).is_file():  # that run says what it learned from
        known = f"--run {quote(str(teacher.parent))}"
    else:
        pictures = data.name if data.name in PROMPTED else data.path or "FOLDER"
        known = f"--teacher {quote(str(teacher))} --data {quote(pictures)}"
    return (
        "samples of a text-to-image student are not ranked, but those of its teacher are: "
        f"python evaluate.py influence {known}"
    )


def _generators(config: DMDConfig, run: Path, device: str, own: bool) -> list[Generator]:
    from .generators import generators

    return generators(config, run, device, own)


DMD = Task(
    name="dmd",
    config=DMDConfig,
    example="dmd_carv.yaml",
    product="student",
    prepare=lambda config, device, processes: _preparation().prepare(config, device, processes),
    out_of_memory="a smaller estimator.upstream (with dmd.global_batch for the same batch), dmd.fake_batch, "
    "dmd.optimiser=adamw_8bit, dmd.ema_memory=host, variance.every=0, or with prompts dmd.adapters.kind=lora",
    check=_check,
    fixed_length=lambda config: "" if config.dmd.lr_decay == "none" else "its learning rates decay",
    gradient=lambda config, run, device, step: _preparation().measured_gradient(config, run, device, step),
    generators=_generators,
    prompted=lambda config: config.data.name in CAPTIONED,
    model=_model,
    no_model=_no_model,
    shards=True,
    words=PageWords("One-step distillation"),
)
