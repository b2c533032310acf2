"""Text-to-3D: module and callbacks from a configuration."""

from __future__ import annotations

import logging
from pathlib import Path

from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback

from carv_distill.engine.samplers import build_adaptive
from carv_distill.engine.task import Task
from carv_distill.errors import UserError
from carv_distill.evaluation.clip import ClipScorer
from carv_distill.geometry.camera import CameraSampler
from carv_distill.teachers.pipelines import load_text_teacher
from carv_distill.teachers.text import TextTeacher

from .callbacks import ClipTrace, ObjectExport, ViewGrid
from .export import build_scene
from .levels import Estimator
from .module import SDSModule
from .options import CameraOptions, SDSConfig
from .splatting import choose_backend

log = logging.getLogger(__name__)


def prepare_sds(config: SDSConfig, device: str) -> Task:
    """An :class:`SDSModule` with previews, a trace of the CLIP score, and export at the end.

    Raises:
        UserError: teacher, CLIP model, prompt, cameras or sizes are missing, damaged, or do not fit; or
            gsplat was asked for and cannot run.
    """
    if config.scene.kind == "gaussians":
        backend = choose_backend(config.scene.gaussians.backend, device)
        log.info("Gaussians are splatted by %s", backend)
    module = build_sds_module(config)
    clip = config.clip
    scorer = ClipScorer(clip.model, device) if clip.every else None
    every = clip.every, config.preview.every

    def callbacks(folder: Path) -> list[Callback]:
        found: list[Callback] = []
        if scorer:
            found.append(ClipTrace(clip.every, scorer, config.sds.prompt, clip.views))
        if config.preview.every:
            found.append(ViewGrid(folder / "samples", config.preview.every))
        return [*found, ObjectExport(folder / "object", config.export)]

    shown = {"clip/score": "CLIP {:.1f}", "scene/opacity": "opacity {:.2f}"}
    return Task(module, callbacks, "object", shown, every)


def build_sds_module(config: SDSConfig) -> SDSModule:
    """The module of a text-to-3D run.

    Raises:
        UserError: teacher, prompt, cameras or sizes are missing, damaged, or do not fit.
    """
    teacher = load_text_teacher(config.teacher.path)
    check_view(config, teacher)
    check_prompt(config.sds.prompt, teacher)
    e = config.estimator
    estimator = Estimator(
        e.upstream, e.draws, e.strategy, e.noise, e.proposal == "weighting", e.defensive, e.chunk
    )
    seed_everything(config.seed, verbose=False)  # initial weights of a field that has a network
    return SDSModule(
        teacher,
        build_scene(config.scene),
        build_cameras(config.camera),
        estimator,
        config.scene,
        config.sds,
        config.trainer.max_steps,
        config.seed,
        build_adaptive(e),
    )


def build_cameras(options: CameraOptions) -> CameraSampler:
    """The configured cameras.

    Raises:
        UserError: a range that is no pair, or upside down, or outside of what makes sense.
    """
    pairs = {}
    for key, low, high in (("distance", 0.1, 100.0), ("fov", 1.0, 170.0), ("elevation", -90.0, 90.0)):
        pair = getattr(options, key)
        if len(pair) != 2 or not low <= pair[0] <= pair[1] <= high:
            raise UserError(
                f"camera.{key}: {pair} is not [least, greatest] with {low:g} ≤ least ≤ greatest ≤ {high:g}"
            )
        pairs[key] = (pair[0], pair[1])
    return CameraSampler(**pairs, sampling=options.sampling)


def check_view(config: SDSConfig, teacher: TextTeacher) -> None:
    """Renders have the size of the teacher's pictures, unless they are to be enlarged to it.

    Raises:
        UserError: they do not.
    """
    size, wanted = config.scene.size, teacher.image_size
    if size != wanted and not config.scene.upsample:
        raise UserError(
            f"scene.size: renders are {size}×{size}, but the pictures of {config.teacher.path} are "
            f"{wanted}×{wanted}; use scene.size={wanted}, or scene.upsample=true to enlarge renders to it"
        )
    if size > wanted:
        raise UserError(f"scene.size: {size} is above the {wanted} pixels of {config.teacher.path}")
    if config.sds.t_min > min(config.sds.t_max, config.sds.t_max_end):
        raise UserError(
            f"sds.t_min: {config.sds.t_min:g} is above the least t_max, "
            f"{min(config.sds.t_max, config.sds.t_max_end):g}"
        )


def check_prompt(prompt: str, teacher: TextTeacher) -> None:
    """Names words that the teacher never learned.

    Raises:
        UserError: an empty prompt.
    """
    if not prompt.strip():
        raise UserError("sds.prompt: it is empty; say what to make, as in sds.prompt='a red torus'")
    if unknown := teacher.prompts.unknown_words(prompt):
        log.warning(
            "sds.prompt: the teacher's tokenizer does not know %s; the object may ignore it",
            ", ".join(repr(word) for word in unknown),
        )
