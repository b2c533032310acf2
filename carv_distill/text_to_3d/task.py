"""Text-to-3D as a task."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from carv_distill.carv.strategies import STRATEGIES
from carv_distill.engine.task import PageWords, Task
from carv_distill.errors import UserError
from carv_distill.options import leaves

from .options import SceneOptions, SDSConfig, SDSOptions, greatest_level
from .rendering_checks import check_rendering, refuse_changes
from .schedules import check_schedule, check_stages, first_crossing, value_at


def _preparation() -> ModuleType:
    from . import preparation  # torch and Lightning, which a configuration is checked without

    return preparation


def _remake(config: SDSConfig, run: Path, device: str, step: int | None) -> int:
    from .product import remake

    return remake(config, run, device, step)


def _check(config: SDSConfig) -> None:
    config.estimator.check("sds", refused="weights")
    for key, low, high in (("distance", 0.1, 100.0), ("fov", 1.0, 170.0), ("elevation", -90.0, 90.0)):
        pair = getattr(config.camera, key)
        if len(pair) != 2 or not low <= pair[0] <= pair[1] <= high:
            raise UserError(
                f"camera.{key}: {pair} is not [least, greatest] with {low:g} ≤ least ≤ greatest ≤ {high:g}"
            )
    least = config.camera.distance[0]
    if (noise := config.camera.position_noise) * 3**0.5 >= least:
        raise UserError(
            f"camera.position_noise: {noise:g} along each axis may put a camera into the middle; with "
            f"camera.distance from {least:g} it must be below {least / 3**0.5:.3g}"
        )
    _check_gaussians(config.scene)
    o, max_steps = config.sds, config.trainer.max_steps
    for key, spec, value, _ in leaves(config):
        if "schedule" in spec.metadata:
            check_schedule(key, value, spec.metadata, max_steps)
        elif "stages" in spec.metadata and value is not None:
            check_stages(key, value, spec.metadata, max_steps)
    check_rendering(config)
    if o.t_max_end is not None and isinstance(o.t_max, list):
        raise UserError("sds.t_max_end: sds.t_max is a list, which says its end itself; leave this out")
    greatest = greatest_level(o, max_steps)
    if (step := first_crossing(o.t_min, greatest)) is not None:
        low, high = value_at(o.t_min, step), value_at(greatest, step)
        raise UserError(
            f"sds.t_min: {low:g} is not below the greatest level, {high:g}, at step {step}: none are left"
        )
    _check_objective(o)
    if not o.prompt.strip():
        raise UserError("sds.prompt: it is empty; say what to make, as in sds.prompt='a red torus'")


def _check_objective(o: SDSOptions) -> None:
    """What goes with an objective, and what does not."""
    if o.objective == "nfsd" and not o.negative_prompt.strip():
        raise UserError(
            "sds.negative_prompt: sds.objective=nfsd needs one, as sds.negative_prompt='unrealistic, blurry, "
            "low quality'"
        )
    if o.perp_neg and o.objective in ("csd", "nfsd"):
        raise UserError(
            f"sds.perp_neg: true goes with sds.objective=sds, vsd or ism, found {o.objective}, which has no "
            "guided prediction; use sds.perp_neg=false"
        )
    if o.coefficient == "learned" and o.objective == "ism":
        raise UserError(
            "sds.coefficient: learned takes the noise out of a prediction, and with sds.objective=ism a draw "
            "has almost none; use sds.coefficient=one"
        )
    for name, options in (("vsd", o.vsd), ("ism", o.ism)):
        if o.objective != name:
            refuse_changes(f"sds.{name}", options, f"sds.objective={name}, found {o.objective}")
    if not STRATEGIES[o.vsd.strategy].allows(o.vsd.draws):
        raise UserError(
            f"sds.vsd.draws: {o.vsd.draws} is odd, and sds.vsd.strategy: {o.vsd.strategy} needs an "
            "even number"
        )


def _fixed_length(config: SDSConfig) -> str:
    """Lists say their steps themselves, and are checked against trainer.max_steps."""
    o = config.sds
    return "" if o.t_max_end in (None, o.t_max) else "sds.t_max falls to sds.t_max_end"


def _check_gaussians(scene: SceneOptions) -> None:
    options, d = scene.gaussians, scene.gaussians.densify
    if options.start is not None and scene.kind != "gaussians":
        raise UserError(
            f"scene.gaussians.start: {options.start} is what Gaussians begin as, and scene.kind is "
            f"{scene.kind}; leave it out, or give scene.kind=gaussians"
        )
    if d.every and d.most < options.count:
        raise UserError(
            f"scene.gaussians.densify.most: {d.most} is below scene.gaussians.count, {options.count}, that "
            "the run begins with; give at least as many"
        )
    if d.every and d.stop < d.start:
        raise UserError(
            f"scene.gaussians.densify.stop: {d.stop} is below scene.gaussians.densify.start, {d.start}: the "
            "count would never change; scene.gaussians.densify.every=0 says that"
        )


SDS = Task(
    name="sds",
    config=SDSConfig,
    example="sds_carv.yaml",
    product="object",
    prepare=lambda config, device, processes: _preparation().prepare(config, device, processes),
    out_of_memory="a smaller sds.renders_at_once, estimator.chunk, scene.size or scene.samples",
    check=_check,
    fixed_length=_fixed_length,
    begins=lambda config: config.scene.kind == "gaussians",
    gradient=lambda config, run, device, step: _preparation().measured_gradient(config, run, device, step),
    remake=_remake,
    media=("views.png", "turntable.mp4", "mesh.glb"),
    renders=True,
    prompted=lambda config: True,
    words=PageWords("Text-to-3D", "Previews", "The object from around, from two heights", "render"),
)
