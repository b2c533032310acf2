"""One-step distillation: module and callbacks from a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lightning.pytorch.callbacks import Callback

from carv_distill.data.batches import step_loader
from carv_distill.data.images import load_images
from carv_distill.data.spec import ImageSet
from carv_distill.engine.images import FIDTools, check_fit
from carv_distill.engine.metrics import read_metrics
from carv_distill.engine.samplers import build_adaptive, build_sampler
from carv_distill.engine.task import Task
from carv_distill.errors import UserError
from carv_distill.teachers.schedule import VPSchedule
from carv_distill.teachers.teacher import load_teacher

from .module import DMDModule, RealImages, Samples
from .options import DMDConfig
from .traces import TraceFigure, VarianceTrace


def prepare_distillation(config: DMDConfig, device: str, world_size: int) -> Task:
    """A :class:`DMDModule` with traces of variance and FID.

    Raises:
        UserError: data, teacher, features or estimator are missing, damaged, or do not fit.
    """
    data = load_images(config.data)
    module = build_dmd_module(config, data, world_size)
    tools = FIDTools.load(config, data, device) if config.fid.every else None
    every = config.fid.every, config.variance.every

    def callbacks(folder: Path) -> list[Callback]:
        found: list[Callback] = []
        if config.variance.every:
            found.append(VarianceTrace(config.variance.every, config.variance.pairs))
        if tools:
            found.append(tools.trace(folder))
        figure = folder / "figures" / "variance_vs_fid.png"
        return [*found, TraceFigure(folder / "metrics.csv", figure, every)]

    shown = {"fid": "FID {:.2f}", "variance/carv": "variance {:.3g}", "variance/iid": "(R,1) iid {:.3g}"}

    def save(trained: DMDModule, folder: Path) -> None:
        trained.save(folder, student_figures(config, folder.parent / "metrics.csv"))

    return Task(
        module,
        callbacks,
        "student",
        shown,
        every,
        config.fid.every,
        accumulate=module.accumulate,
        save=save,
    )


def student_figures(config: DMDConfig, metrics: Path) -> dict[str, str | float]:
    """What the student's page says of its run: where it comes from, and the last FID that was measured."""
    figures: dict[str, str | float] = {
        "teacher": config.teacher.path,
        "data": config.data.name,
        "proposal": config.estimator.proposal,
        "noise": config.estimator.noise,
        "fake-score updates per update": config.dmd.fake_updates_per_student,
    }
    if config.dmd.gan.on:
        gan = config.dmd.gan
        figures["weights of the discriminator"] = f"{gan.student_weight:g}, {gan.fake_weight:g}"
    if config.dmd.global_batch is not None:
        figures["samples per update"] = config.dmd.global_batch
    measured = [row for row in read_metrics(metrics) if "fid/fid" in row]
    if measured:
        last = measured[-1]
        setting = (
            f"{config.fid.images:,} images, {config.fid.features} features, at update {last['step']:.0f}"
        )
        figures["FID"] = f"{last['fid/fid']:.2f} ({setting})"
        for name in ("precision", "recall"):
            if f"fid/{name}" in last:
                figures[name] = round(last[f"fid/{name}"], 3)
    return figures


def build_dmd_module(config: DMDConfig, data: ImageSet, world_size: int = 1) -> DMDModule:
    """The module of a distillation run, for one of so many processes.

    Raises:
        UserError: the teacher is missing, damaged, or does not fit the data; or the estimator is no good.
    """
    if config.dmd.gan.student_weight and not config.dmd.gan.on:
        raise UserError(
            f"dmd.gan.fake_weight: 0, but dmd.gan.student_weight is {config.dmd.gan.student_weight:g}; a "
            "discriminator that does not learn has nothing to say (give a weight above 0)"
        )
    if config.teacher.precision == "bfloat16" and config.trainer.precision == "64-true":
        raise UserError("teacher.precision: bfloat16 does not go with trainer.precision: 64-true")
    teacher = load_teacher(config.teacher.path)
    check_fit(teacher, data, config.teacher.path)
    schedule = teacher.schedule
    timesteps = schedule.timesteps if isinstance(schedule, VPSchedule) else None
    return DMDModule(
        teacher,
        build_sampler(config.estimator, timesteps),
        config.estimator.upstream,
        config.estimator.draws,
        config.dmd,
        max(data.spec.classes, 1),  # without labels, all are 0
        config.seed,
        config.estimator.chunk,
        config.teacher.guidance,
        build_adaptive(config.estimator),
        config.teacher.precision == "bfloat16",
        accumulated_shares(config, world_size),
        real=_real_images(config, data) if config.dmd.gan.on else None,
    )


def _real_images(config: DMDConfig, data: ImageSet) -> RealImages:
    """Real images for the discriminator, as many for each share as its student samples."""
    o = config.dmd
    batch = o.fake_batch * (1 if o.fake_reuse else o.fake_updates_per_student)

    def real(shares: Sequence[int], start: int) -> Iterable[Samples]:
        return step_loader(data, batch, config.seed, "real", shares, start, config.data.workers)

    return real


def accumulated_shares(config: DMDConfig, world_size: int) -> int:
    """Shares of estimator.upstream samples that each process works through in an update.

    Raises:
        UserError: the processes' shares do not make up dmd.global_batch.
    """
    batch, each = config.dmd.global_batch, config.estimator.upstream * world_size
    if batch is None:
        return 1
    if batch % each:
        raise UserError(
            f"dmd.global_batch: {batch} is not a multiple of {each}, that is estimator.upstream "
            f"{config.estimator.upstream} × {world_size} processes"
        )
    return batch // each
