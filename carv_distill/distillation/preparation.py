"""One-step distillation: module and callbacks from a configuration, generators of a run."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from lightning.pytorch.callbacks import Callback

from carv_distill.data.batches import step_loader
from carv_distill.data.images import check_fit, load_images
from carv_distill.data.sets import ImageSet
from carv_distill.engine.callbacks import FIDTrace
from carv_distill.engine.checkpoints import load_checkpoint
from carv_distill.engine.devices import autocast_of
from carv_distill.engine.estimator import build_estimator
from carv_distill.engine.folder import product_of
from carv_distill.engine.metrics import read_metrics
from carv_distill.engine.task import Generator, Prepared
from carv_distill.errors import UserError
from carv_distill.evaluation.generate import Sample
from carv_distill.evaluation.reference import FIDSetup
from carv_distill.teachers.sampler import heun_sample
from carv_distill.teachers.schedule import VPSchedule
from carv_distill.teachers.teacher import load_teacher
from carv_distill.variance import MeasuredGradient

from .gradient import gradient_of
from .module import DMDModule
from .objective import DMDObjective
from .options import DMDConfig
from .start import start_from
from .traces import TraceFigure, VarianceTrace, draw_run


def prepare(config: DMDConfig, device: str, world_size: int) -> Prepared:
    """A :class:`DMDModule` with traces of variance and FID."""
    data = load_images(config.data)
    module = build_module(config, data, world_size)
    fid = FIDSetup.load(config.fid, data, config.data.workers, device) if config.fid.every else None

    def callbacks(folder: Path) -> list[Callback]:
        variance = VarianceTrace(config.variance.every, config.variance.pairs)
        fids = [FIDTrace(fid, folder / "samples")] if fid else []
        return [variance, *fids, TraceFigure(folder, (config.fid.every, config.variance.every))]

    def save(trained: DMDModule, folder: Path, step: int) -> None:
        trained.save(folder, step, student_figures(config, folder.parent / "metrics.csv", step))

    shown = {"fid": "FID {:.2f}", "variance/carv": "variance {:.3g}", "variance/iid": "(R,1) iid {:.3g}"}

    def finish(trained: DMDModule, folder: Path) -> None:
        draw_run(folder, trained)

    def begin() -> None:
        if config.dmd.start is not None:
            start_from(module, config.dmd.start)

    return Prepared(module, callbacks, save, finish, begin, shown, module.accumulate)


def student_figures(config: DMDConfig, metrics: Path, step: int) -> dict[str, str | float]:
    """What the page of a student of some update says: where it comes from, and the last FID until then."""
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
    measured = [row for row in read_metrics(metrics) if "fid/fid" in row and row["step"] <= step]
    if measured:
        last, o = measured[-1], config.fid
        setting = f"{o.images:,} images, {o.features} features, at update {last['step']:.0f}"
        figures["FID"] = f"{last['fid/fid']:.2f} ({setting})"
        for name in ("precision", "recall"):
            if f"fid/{name}" in last:
                figures[name] = round(last[f"fid/{name}"], 3)
    return figures


def build_module(config: DMDConfig, data: ImageSet, world_size: int = 1) -> DMDModule:
    """The module of a distillation run, for one of so many processes."""
    teacher = load_teacher(config.teacher.path)
    check_fit(teacher, data.spec, config.teacher.path)
    o, schedule = config.dmd, teacher.schedule
    timesteps = schedule.timesteps if isinstance(schedule, VPSchedule) else None
    # real images for the discriminator, as many for each share as its student samples
    count = o.fake_batch * (1 if o.fake_reuse else o.fake_updates_per_student)
    real = partial(step_loader, data, count, config.seed, "real", workers=config.data.workers)
    objective = DMDObjective(
        teacher,
        o,
        classes=max(data.spec.classes, 1),  # without labels, all are 0
        seed=config.seed,
        guidance=config.teacher.guidance,
        teacher_bfloat16=config.teacher.precision == "bfloat16",
    )
    return DMDModule(
        objective=objective,
        estimator=build_estimator(config.estimator, timesteps),
        seed=config.seed,
        accumulate=accumulated_shares(config, world_size),
        real=real if o.gan.on else None,
    )


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


def generators(config: DMDConfig, run: Path, device: str) -> list[Generator]:
    """The run's student by one step, its averages beside it likewise, and its teacher by Heun's."""
    steps = config.fid.sampler_steps

    def student(average: str = ".") -> Sample:
        network = load_teacher(product_of(run, "student") / average)
        network.denoiser.to(device)
        top = network.schedule.sigma_max
        return lambda z, labels: network.denoiser(top * z, z.new_full((len(z),), top), labels)

    def teacher() -> Sample:
        frozen = load_teacher(config.teacher.path)
        guided = frozen.guided(config.teacher.guidance, load_images(config.data).spec.classes).to(device)
        return lambda z, labels: heun_sample(guided, frozen.schedule, z, labels, steps)

    beside = [
        Generator(f"student, 1 step, average {decay:g}", partial(student, f"averages/{decay:g}"))
        for decay in config.dmd.ema_beside
    ]
    return [
        Generator("student, 1 step", student),
        *beside,
        Generator(f"teacher, Heun {steps}", teacher, teacher=True),
    ]


def measured_gradient(config: DMDConfig, run: Path, device: str, step: int | None) -> MeasuredGradient:
    """The gradient that a run descends, at one of its checkpoints (None: the newest)."""
    module = build_module(config, load_images(config.data))
    step = load_checkpoint(module, run, config, device, step)
    return replace(gradient_of(module, step=step), context=autocast_of(config.trainer, device))
