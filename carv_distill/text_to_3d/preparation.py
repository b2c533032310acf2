"""Text-to-3D: module and callbacks from a configuration, the gradient of a run."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.engine.callbacks import Periodic, PictureGrid, write_metrics
from carv_distill.engine.checkpoints import load_checkpoint
from carv_distill.engine.devices import autocast_of, precision_of
from carv_distill.engine.estimator import build_adaptive
from carv_distill.engine.optimisation import time_at_rest
from carv_distill.engine.task import Prepared
from carv_distill.errors import UserError
from carv_distill.evaluation.clip import ClipScorer
from carv_distill.teachers.pipelines.codecs import Pixels
from carv_distill.teachers.pipelines.teacher import TextTeacher, load_text_teacher
from carv_distill.teachers.precision import frozen_precision
from carv_distill.variance import MeasuredGradient, StageTimer

from .cameras import build_cameras
from .guidance.timesteps import AnnealedSampler
from .module import SDSModule
from .object.turntable import ELEVATIONS, LARGEST_VIEW, VIEWS, pictures, turntable
from .objective import SDSObjective
from .options import ClipOptions, SceneOptions, SDSConfig
from .product import check_export, finish
from .prompts import check_prompts
from .rendering import choose_backend
from .rendering_checks import idle_weights
from .scenes import GaussianScene, Scene, build_scene
from .schedules import last_stage
from .start import start_from

log = logging.getLogger(__name__)


def prepare(config: SDSConfig, device: str, world_size: int) -> Prepared:
    """An :class:`SDSModule` with previews, a trace of the CLIP score, and export at the end."""
    if config.scene.kind == "gaussians":
        double = precision_of(config.trainer, device) == "64-true"
        dtype = torch.float64 if double else torch.float32
        backend = choose_backend(config.scene.gaussians.backend, device, dtype)
        log.info("Gaussians are splatted by %s", backend)
    if idle := idle_weights(config):
        adds = "adds" if len(idle) == 1 else "add"
        log.warning("%s %s nothing: scene.kind=%s has no voxels", " and ".join(idle), adds, config.scene.kind)
    module = build_module(config, device)

    @cache
    def scorer() -> ClipScorer | None:
        return ClipScorer(config.clip.model, device) if config.clip.every else None

    def callbacks(folder: Path) -> list[Callback]:
        clip = scorer()
        scores = [ClipTrace(config.clip, clip, config.sds.prompt)] if clip else []
        side = min(2 * last_stage(config.scene.size), LARGEST_VIEW)
        scale = max(1, LARGEST_VIEW // 2 // side)
        grid = PictureGrid(
            folder / "samples", config.preview.every, partial(preview, size=side), VIEWS, scale
        )
        return [*scores, grid]

    def require() -> None:
        if config.scene.gaussians.start is None:  # how many a file has is known when it is read
            check_export(config, largest_scene(config.scene, module.scene))
        scorer()

    def begin() -> None:
        if (place := config.scene.gaussians.start) is not None and isinstance(module.scene, GaussianScene):
            start_from(module.scene, place, config.scene.gaussians)
            check_export(config, largest_scene(config.scene, module.scene))

    def finished(module: SDSModule, folder: Path) -> None:
        finish(config, module.scene, folder)

    shown = {"clip/score": "CLIP {:.1f}", "scene/opacity": "opacity {:.2f}"}
    return Prepared(module, callbacks, SDSModule.save, finished, require, begin, shown=shown)


def largest_scene(view: SceneOptions, scene: Scene) -> Scene:
    """The scene, or one with as many Gaussians as density control may make of it, all of which are one in
    memory."""
    most = view.gaussians.greatest_count
    if not isinstance(scene, GaussianScene) or len(scene.means) >= most:
        return scene
    large = GaussianScene(view.extent, replace(view.gaussians, count=1))
    large.replace({name: value.expand(most, *value.shape[1:]) for name, value in large.values.items()})
    return large


def build_module(config: SDSConfig, device: str) -> SDSModule:
    """The module of a text-to-3D run on a kind of device, not yet there."""
    t = config.teacher
    sides = () if t.size is None else (t.size, t.size)
    teacher = load_text_teacher(t.path, sides, t.guidance, frozen_precision(t.precision, device))
    check_view(config, teacher)
    check_objective(config, teacher)
    check_prompts(config.sds, teacher.prompts)
    e, max_steps = config.estimator, config.trainer.max_steps
    seed_everything(config.seed, verbose=False)  # initial weights of a field that has a network
    objective = SDSObjective(
        teacher=teacher,
        scene=build_scene(config.scene),
        cameras=build_cameras(config.camera),
        view=config.scene,
        options=config.sds,
        levels=AnnealedSampler(teacher.schedule, e, config.sds, max_steps, build_adaptive(e)),
        seed=config.seed,
    )
    return SDSModule(objective=objective, seed=config.seed)


def measured_gradient(config: SDSConfig, run: Path, device: str, step: int | None) -> MeasuredGradient:
    """The gradient that a run descends, at one of its checkpoints (None: the newest)."""
    module = build_module(config, device)
    step = load_checkpoint(module, run, config, device, step)
    objective, e = module.objective, module.estimator
    levels = objective.levels.range_at(step)
    return MeasuredGradient(
        pipeline=objective.pipeline(step),
        parameters=module.objective.learned,
        sampler=objective.levels.sampler_at(step),
        upstream=e.upstream,
        draws=e.draws,
        seed=config.seed,
        device=module.device,
        chunk=module.chunk,
        step=step,
        context=autocast_of(config.trainer, device),
        time_other=partial(time_other, module),
        importance=partial(levels.proposal, config.sds.weighting),
        spread=config.camera.sampling != "iid",
        finite=objective.finite,
    )


def time_other(module: SDSModule, timer: StageTimer) -> None:
    """Times what a step does besides its gradient: the optimiser's step, and all of the fake score's."""
    optimizers = module.configure_optimizers()
    for p in module.objective.learned:
        p.grad = torch.zeros_like(p)
    count, g = module.estimator.upstream, stream("other", device=module.device)
    cameras = module.objective.cameras(count, g)
    x = torch.zeros(count, *module.objective.shape, device=g.device, dtype=cameras.azimuth.dtype)

    def update(number: int) -> None:
        drawn = module.fake_draws(number, x.dtype)
        for loss in module.fake_losses(x, cameras, drawn, 0):
            loss.backward()
        if module.fake_vector is not None:
            module.fake_vector.collect_gradient()
        for optimizer in optimizers:
            optimizer.step()

    time_at_rest(timer, module.device, optimizers, update)
    for p in module.objective.learned:
        p.grad = None


def check_view(config: SDSConfig, teacher: TextTeacher) -> None:
    """UserError unless renders have the size of the teacher's pictures, or are to be enlarged to it."""
    stages, wanted = config.scene.size, teacher.image_size
    size = int(max(stages[1::2]) if isinstance(stages, list) else stages)
    if size != wanted and not config.scene.upsample:
        raise UserError(
            f"scene.size: renders are {size}×{size}, but the pictures of {config.teacher.path} are "
            f"{wanted}×{wanted}; use scene.size={wanted}, or scene.upsample=true to enlarge renders to it"
        )
    if size > wanted:
        raise UserError(f"scene.size: {size} is above the {wanted} pixels of {config.teacher.path}")
    if config.sds.augment != "none" and not isinstance(teacher.codec, Pixels):
        raise UserError(
            f"sds.augment: {config.sds.augment} composes pictures of pixels, but {config.teacher.path} "
            "denoises latents, which would have to be encoded for each of them; use sds.augment=none"
        )


def check_objective(config: SDSConfig, teacher: TextTeacher) -> None:
    """UserError for an objective that compares predictions which a guidance-distilled teacher does not
    make."""
    o, told = config.sds, teacher.prompts.guidance is not None
    if told and o.perp_neg:
        raise UserError(
            f"sds.perp_neg: it compares predictions with and without the prompt, but {config.teacher.path} "
            "is told its guidance and makes one; use sds.perp_neg=false"
        )
    if told and o.objective != "sds":
        raise UserError(
            f"sds.objective: {o.objective} compares predictions with and without the prompt, but "
            f"{config.teacher.path} is told its guidance and makes one; use sds.objective=sds"
        )


def preview(module: SDSModule, size: int) -> Tensor:
    """Views from each elevation of the sheet, [n, 3, S, S] in [−1, 1]."""
    return torch.cat([around(module, VIEWS, size, elevation) for elevation in ELEVATIONS])


def around(module: SDSModule, views: int, size: int, elevation: float = ELEVATIONS[0]) -> Tensor:
    """Views around the object as it is now, before the run's own background, [n, 3, S, S] in [−1, 1]."""
    v = module.objective.view
    return 2 * pictures(module.scene, turntable(views, elevation), size, v.samples, v.background) - 1


class ClipTrace(Periodic):
    """Measures the CLIP score of views around the object every few steps, and after the last one.

    Columns: ``clip/score`` with ``_low`` and ``_high`` (95 %, over the views).
    """

    def __init__(self, options: ClipOptions, scorer: ClipScorer, prompt: str) -> None:
        super().__init__(options.every, last=True)
        self.views, self.scorer, self.prompt = options.views, scorer, prompt

    @rank_zero_only
    def act(self, trainer: Trainer, module: SDSModule) -> None:
        size = last_stage(module.objective.view.size)
        score = self.scorer.mean(around(module, self.views, size), self.prompt)
        values = {"clip/score": score.value, "clip/score_low": score.low, "clip/score_high": score.high}
        write_metrics(trainer, values)
        module.log("clip/score", score.value, logger=False, rank_zero_only=True)
