"""From a diffusers scheduler's configuration to a noise schedule and what the network predicts on it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler, EDMEulerScheduler

from carv_distill.errors import UserError

from .denoiser import (
    EDMPreconditioning,
    EpsPreconditioning,
    Preconditioning,
    SamplePreconditioning,
    VPreconditioning,
)
from .folder import one_line
from .schedule import EDMSchedule, NoiseSchedule, VPSchedule


def parametrisation(config: dict[str, Any], folder: Path) -> tuple[NoiseSchedule, Preconditioning]:
    """EDM schedulers give the EDM preconditioning, those with betas ε-, v- or sample-prediction, as their
    `prediction_type` says.

    Raises:
        UserError: naming `folder`, for a scheduler that is neither, or an unknown prediction.
    """
    name, prediction = str(config.get("_class_name")), config.get("prediction_type", "epsilon")
    if name.startswith("EDM"):
        if prediction != "epsilon":
            raise UserError(f"{folder}: an EDM scheduler with prediction_type {prediction} is not supported")
        edm = _scheduler(EDMEulerScheduler, config, folder).config
        if edm.get("sigma_schedule", "karras") != "karras":
            raise UserError(f"{folder}: sigma_schedule {edm.sigma_schedule} is not supported, only karras is")
        schedule = EDMSchedule(edm.sigma_min, edm.sigma_max, edm.rho)
        return schedule, EDMPreconditioning(edm.sigma_data)
    if "beta_schedule" not in config and config.get("trained_betas") is None:
        raise UserError(
            f"{folder}: scheduler {name} has neither betas nor EDM noise levels; known are EDM schedulers "
            "and those with a beta schedule"
        )
    vp = VPSchedule(_scheduler(DDPMScheduler, config, folder).betas)
    if not math.isfinite(vp.sigma_max):
        raise UserError(f"{folder}: a schedule with zero signal at its end (β = 1) is not supported")
    match prediction:
        case "epsilon":
            return vp, EpsPreconditioning(vp)
        case "v_prediction":
            return vp, VPreconditioning(vp)
        case "sample":
            return vp, SamplePreconditioning(vp)
    raise UserError(f"{folder}: prediction_type {prediction!r} is not one of epsilon, v_prediction, sample")


def _scheduler(kind: Any, config: dict[str, Any], folder: Path) -> Any:
    """diffusers' scheduler of that configuration."""
    try:
        return kind.from_config(config)
    except (NotImplementedError, ValueError, TypeError) as error:
        raise UserError(f"{folder}: no readable scheduler: {one_line(error)}") from error
