"""One-step distillation: module and callbacks from a configuration, generators of a run."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from lightning.pytorch.callbacks import Callback

from carv_distill.data.captioned import CaptionedSet
from carv_distill.data.sets import ImageSet
from carv_distill.engine.checkpoints import load_checkpoint
from carv_distill.engine.devices import autocast_of, free_memory, own_device
from carv_distill.engine.fid_trace import FIDTrace
from carv_distill.engine.metrics import read_metrics
from carv_distill.engine.sample_grid import SampleGrid
from carv_distill.engine.task import Prepared
from carv_distill.evaluation import copies
from carv_distill.evaluation.prompted import Prompted, captioned_setup
from carv_distill.evaluation.reference import FIDSetup
from carv_distill.teachers.pipelines.codecs import ImageLatents
from carv_distill.variance import MeasuredGradient

from .building import build_module, is_prompted, load_data
from .conditions import Prompts
from .export.text_student import TextProduct
from .gradient import gradient_of
from .memory.needs import require_memory
from .memory.plan import plan_of
from .module import DMDModule
from .optimisers import adamw_8bit_class
from .options import DMDConfig
from .real_latents import RealLatents
from .start import require_same_base, start_from
from .traces import TraceFigure, VarianceTrace, draw_run


def prepare(config: DMDConfig, device: str, world_size: int) -> Prepared:
    """A :class:`DMDModule` with traces of variance and FID, and grids of its samples."""
    data = load_data(config)
    module = build_module(config, data, world_size, device)
    setup = partial(fid_setup, config, data, device=device, latent=module.objective.shape)
    fid, prompted = setup() if config.fid.every else (None, None)

    def callbacks(folder: Path) -> list[Callback]:
        variance = VarianceTrace(config.variance.every, config.variance.pairs)
        fids = [FIDTrace(fid, prompted)] if fid else []
        grid = sample_grid(folder / "samples", config.preview.every, module)
        return [variance, *fids, grid, TraceFigure(folder, (config.fid.every, config.variance.every))]

    def save(trained: DMDModule, folder: Path, step: int) -> None:
        trained.save(folder, step, student_figures(config, folder.parent / "metrics.csv", step))

    def ready() -> None:
        real, codec = module.real, module.objective.codec
        if isinstance(real, RealLatents) and isinstance(codec, ImageLatents):
            real.fill(codec, own_device(device))

    shown = {
        "fid": config.fid.shown,
        "variance/carv": "variance {:.3g}",
        "variance/iid": "with one iid draw a sample {:.3g}",
    }

    def finish(trained: DMDModule, folder: Path) -> None:
        draw_run(folder, trained)

    def require() -> None:
        if config.dmd.optimiser == "adamw_8bit":
            adamw_8bit_class()
        there = free_memory(device)
        if there is not None and plan_of(config, module, world_size, exact=False).need.total > there:
            require_memory(plan_of(config, module, world_size), there)

    def begin() -> None:
        if config.dmd.start is not None:
            require_same_base(config, config.dmd.start)
            start_from(module, config.dmd.start)

    return Prepared(
        module,
        callbacks,
        save,
        finish,
        require,
        begin,
        ready,
        shown,
        module.accumulate,
        gather=DMDModule.gather,
    )


def sample_grid(folder: Path, every: int, module: DMDModule) -> SampleGrid:
    """Of the run's own prompts, or of its labels."""
    conditions, shape = module.objective.conditions, module.objective.shape
    if not isinstance(conditions, Prompts):
        return SampleGrid.of_labels(folder, every, conditions.count, shape)
    product = cast(TextProduct, module.product)
    return SampleGrid.of_prompts(folder, every, conditions.texts, conditions.drawn, shape, product.size)


def fid_setup(
    config: DMDConfig, data: ImageSet | None, device: str, latent: tuple[int, ...]
) -> tuple[FIDSetup, Prompted | None]:
    """How a run's images are measured."""
    assert data is not None
    if is_prompted(config):
        return captioned_setup(config.fid, cast(CaptionedSet, data), config.data.workers, device, latent)
    return FIDSetup.load(config.fid, data, config.data.workers, device), None


def student_figures(config: DMDConfig, metrics: Path, step: int) -> dict[str, str | float]:
    """What the page of a student of some update says: where it comes from, and the last FID until then."""
    figures: dict[str, str | float] = {
        "teacher": config.teacher.path,
        "data": config.data.name,
        "seed": config.seed,
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
        for key, name in (("precision", "precision"), ("recall", "recall"), ("copied", copies.NAME)):
            if f"fid/{key}" in last:
                figures[name] = round(last[f"fid/{key}"], 3)
    return figures


def measured_gradient(config: DMDConfig, run: Path, device: str, step: int | None) -> MeasuredGradient:
    """The gradient that a run descends, at one of its checkpoints (None: the newest)."""
    module = build_module(config, load_data(config), device=device)
    step = load_checkpoint(module, run, config, device, step)
    sampler, context = module.estimator.sampler_at(step), autocast_of(config.trainer, device)
    return replace(gradient_of(module, step=step), sampler=sampler, context=context)
