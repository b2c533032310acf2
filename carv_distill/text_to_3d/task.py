"""Text-to-3D as a task."""

from __future__ import annotations

from types import ModuleType

from carv_distill.engine.task import Task
from carv_distill.errors import UserError

from .options import SDSConfig


def _preparation() -> ModuleType:
    from . import preparation  # torch and Lightning, which a configuration is checked without

    return preparation


def _check(config: SDSConfig) -> None:
    config.estimator.check("sds", refused="weights")
    for key, low, high in (("distance", 0.1, 100.0), ("fov", 1.0, 170.0), ("elevation", -90.0, 90.0)):
        pair = getattr(config.camera, key)
        if len(pair) != 2 or not low <= pair[0] <= pair[1] <= high:
            raise UserError(
                f"camera.{key}: {pair} is not [least, greatest] with {low:g} ≤ least ≤ greatest ≤ {high:g}"
            )
    o = config.sds
    if o.t_min >= min(o.t_max, o.t_max_end):
        least = min(o.t_max, o.t_max_end)
        raise UserError(f"sds.t_min: {o.t_min:g} is not below the least t_max, {least:g}: no levels are left")
    if not o.prompt.strip():
        raise UserError("sds.prompt: it is empty; say what to make, as in sds.prompt='a red torus'")


SDS = Task(
    name="sds",
    config=SDSConfig,
    example="sds_carv.yaml",
    product="object",
    prepare=lambda config, device, processes: _preparation().prepare(config, device, processes),
    out_of_memory="a smaller sds.renders_at_once, estimator.chunk, scene.size or scene.samples",
    check=_check,
    gradient=lambda config, run, device, step: _preparation().measured_gradient(config, run, device, step),
    renders=True,
    prompted=lambda config: True,
)
