"""What goes together in the options of rendering, and what does not."""

from __future__ import annotations

from typing import Any

from carv_distill.errors import UserError
from carv_distill.options import leaves

from .options import SDSConfig
from .schedules import knots


def check_rendering(config: SDSConfig) -> None:
    """Raises:
    UserError: naming the key, what was found and what is allowed.
    """
    _check_shading(config)
    _check_stages(config)
    _check_background(config)
    _check_occupancy(config)


def idle_weights(config: SDSConfig) -> list[str]:
    """Keys of regularisers that compare neighbouring voxels, where the scene has none: they add nothing.

    They are not refused: a configuration of voxels is one of another kind by scene.kind alone.
    """
    weights = {
        "sds.smoothness": config.sds.smoothness,
        "sds.colour_smoothness": config.sds.colour_smoothness,
    }
    if config.scene.kind == "voxels":
        return []
    return [key for key, weight in weights.items() if any(value for _, value in knots(weight))]


def refuse_changes(section: str, options: Any, needs: str) -> None:
    """UserError for the first value of a section that nothing uses, unless it is the default."""
    plain = {key: value for key, _, value, _ in leaves(type(options)())}
    for key, _, value, _ in leaves(options):
        if value != plain[key]:
            raise UserError(f"{section}.{key}: {value} goes with {needs}")


def _check_background(config: SDSConfig) -> None:
    scene, augment = config.scene, config.sds.augment
    if scene.background != "learned":
        needs = f"scene.background=learned, found {scene.background}"
        refuse_changes("scene.background_network", scene.background_network, needs)
    elif augment != "none":
        raise UserError(
            f"sds.augment: {augment} has random backgrounds in the place of scene.background=learned; use "
            "sds.augment=none, or another background"
        )


def _check_stages(config: SDSConfig) -> None:
    scene = config.scene
    if isinstance(scene.size, list) and len(set(scene.size[1::2])) > 1 and not scene.upsample:
        raise UserError(
            f"scene.size: {scene.size} has several sizes, and the teacher one; use scene.upsample=true to "
            "enlarge renders to it"
        )
    if (active := scene.hash.active_levels) is None:
        return
    if scene.kind != "hash":
        raise UserError(f"scene.hash.active_levels: {active} goes with scene.kind=hash, found {scene.kind}")
    if (most := max(active[1::2]) if isinstance(active, list) else active) > scene.hash.levels:
        raise UserError(
            f"scene.hash.active_levels: {most} is above the number of levels, "
            f"scene.hash.levels={scene.hash.levels}"
        )


def _check_occupancy(config: SDSConfig) -> None:
    options, kind = config.scene.occupancy, config.scene.kind
    if not options.resolution:
        refuse_changes("scene.occupancy", options, "scene.occupancy.resolution above 0, found 0")
    elif kind == "gaussians":
        raise UserError(
            f"scene.occupancy.resolution: {options.resolution} goes with scene.kind=voxels or hash, found "
            "gaussians; use 0"
        )


def _check_shading(config: SDSConfig) -> None:
    """Light that would never shine, or on what has no normals."""
    s, max_steps = config.scene.shading, config.trainer.max_steps
    if len(s.distance) != 2 or not 0 < s.distance[0] <= s.distance[1]:
        raise UserError(f"scene.shading.distance: {s.distance} is not [least, greatest], both above 0")
    if s.shaded > 1:
        raise UserError(
            f"scene.shading.lambertian: {s.lambertian:g} and scene.shading.textureless, {s.textureless:g}, "
            "are shares of the renders, and together above 1"
        )
    weights = {
        "scene.shading.textureless": s.textureless,
        "scene.shading.lambertian": s.lambertian,
        "sds.orientation": config.sds.orientation,
    }
    needy = [(key, value) for key, value in weights.items() if value]
    if config.scene.kind == "gaussians" and needy:
        key, value = needy[0]
        raise UserError(
            f"{key}: {value} needs normals, which Gaussians lack; use {key}=0, or scene.kind=voxels or hash"
        )
    if not s.shaded:
        refuse_changes(
            "scene.shading", s, "scene.shading.textureless or scene.shading.lambertian above 0, found 0"
        )
    elif s.from_step >= max_steps:
        raise UserError(
            f"scene.shading.from_step: {s.from_step} is not below trainer.max_steps={max_steps}: no render "
            "would be lit"
        )
