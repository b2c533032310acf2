"""From a diffusers scheduler's configuration to noise levels, and to what the network predicts on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler, EDMEulerScheduler

from carv_distill.errors import UserError, shown

from .folder import read_json, reading
from .parametrisation import (
    EDMPreconditioning,
    EpsPreconditioning,
    FlowPreconditioning,
    Preconditioning,
    SamplePreconditioning,
    VPreconditioning,
)
from .schedule import EDMSchedule, FlowSchedule, NoiseSchedule, VPSchedule, check_levels

SCHEDULER = "scheduler_config.json"
MOST_TIMESTEPS = 100_000
_LARGEST_MU = 20.0
_PREDICTIONS: dict[str, Callable[[VPSchedule], Preconditioning]] = {
    "epsilon": EpsPreconditioning,
    "v_prediction": VPreconditioning,
    "sample": SamplePreconditioning,
}
_KINDS: dict[str, tuple[str, str]] = {
    "_class_name": ("text", ""),
    "prediction_type": ("text", ""),
    "num_train_timesteps": ("whole number", ""),
    "beta_schedule": ("text", "null"),
    "beta_start": ("finite number", ""),
    "beta_end": ("finite number", ""),
    "trained_betas": ("list of finite numbers", "null"),
    "rescale_betas_zero_snr": ("truth value", ""),
    "timestep_type": ("text", ""),
    "use_flow_sigmas": ("truth value", "null"),
    "snr_shift_scale": ("finite number", "null"),
    "sigma_schedule": ("text", ""),
    "shift": ("finite number", ""),
    "flow_shift": ("finite number", "null"),
    "use_dynamic_shifting": ("truth value", ""),
    "base_shift": ("finite number", "null"),
    "max_shift": ("finite number", "null"),
    "base_image_seq_len": ("whole number", "null"),
    "max_image_seq_len": ("whole number", "null"),
    "time_shift_type": ("text", ""),
    "invert_sigmas": ("truth value", ""),
}
"""What each setting that matters here must be, and what else it may be."""
_EDM_KINDS = dict.fromkeys(("sigma_min", "sigma_max", "sigma_data", "rho"), ("finite number", ""))


def read_scheduler(folder: Path) -> dict[str, Any]:
    """The configuration of the scheduler in a folder.

    Raises:
        UserError: there is none, or a setting that matters here is of another type.
    """
    path = folder / SCHEDULER
    config = read_json(path)
    edm = str(config.get("_class_name")).startswith("EDM")
    for key, (kind, also) in {**_KINDS, **(_EDM_KINDS if edm else {})}.items():
        value = config.get(key)
        if key in config and not _is_a(kind, value) and not (also and value is None):
            allowed = f"a {kind}" + f" or {also}" * bool(also)
            raise UserError(f"{path}: {key} is {shown(value)}, not {allowed}")
    for key, steps in (
        ("num_train_timesteps", config.get("num_train_timesteps", 1)),
        (
            "the length of trained_betas",
            1 if config.get("trained_betas") is None else len(config["trained_betas"]),
        ),
    ):
        if not 0 < steps <= MOST_TIMESTEPS:
            found = shown(steps)
            raise UserError(f"{path}: {key} is {found}; allowed are 1 to {MOST_TIMESTEPS:,}")
    return config


def parametrisation(
    config: dict[str, Any], folder: Path, tokens: int | None = None
) -> tuple[NoiseSchedule, Preconditioning]:
    """The schedule of a diffusers scheduler's configuration, and what the network predicts on it.

    EDM schedulers give the EDM preconditioning; `FlowMatchEulerDiscreteScheduler`, and others with
    `use_flow_sigmas`, flow matching; those with betas ε-, v- or sample-prediction, as their `prediction_type`
    says.

    Args:
        config: of :func:`read_scheduler`.
        tokens: of a picture in the network, by which some flows shift their levels.

    Raises:
        UserError: naming `folder`, for a scheduler that is neither, levels that are no noise schedule, or an
            unknown prediction.
    """
    name, prediction = str(config.get("_class_name")), config.get("prediction_type", "epsilon")
    if name.startswith("EDM"):
        if prediction != "epsilon":
            raise UserError(
                f"{folder}: an EDM scheduler with prediction_type {shown(prediction)} is not supported"
            )
        return _edm(config, folder)
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas"):
        # FlowMatch… knows no other; others read their own key, and without it predict noise
        if not name.startswith("FlowMatch") and prediction != "flow_prediction":
            raise UserError(
                f"{folder}: {shown(name)} with use_flow_sigmas and prediction_type {shown(prediction)} is "
                "not supported, only flow_prediction is: a network that predicts the velocity"
            )
        flow = _flow(config, folder, tokens)
        return flow, FlowPreconditioning(flow)
    if "beta_schedule" not in config and config.get("trained_betas") is None:
        raise UserError(
            f"{folder}: scheduler {shown(name)} has neither betas nor EDM noise levels, and is none of "
            "flow matching; known are EDM schedulers, FlowMatchEulerDiscreteScheduler, those with "
            "use_flow_sigmas, and those with a beta schedule"
        )
    _refuse_other_levels(config, folder)
    vp = _betas(config, folder)
    if prediction not in _PREDICTIONS:
        raise UserError(
            f"{folder}: prediction_type {shown(prediction)} is not one of {', '.join(_PREDICTIONS)}"
        )
    if prediction == "epsilon" and math.isinf(vp.sigma_max):
        raise UserError(
            f"{folder}: prediction_type epsilon does not go with zero signal at the end of the schedule "
            "(β = 1): noise says nothing of a picture there; such networks predict v_prediction or sample"
        )
    return vp, _PREDICTIONS[prediction](vp)


def _edm(config: dict[str, Any], folder: Path) -> tuple[EDMSchedule, EDMPreconditioning]:
    for key in _EDM_KINDS:
        if config.get(key, 1) <= 0:
            raise UserError(f"{folder / SCHEDULER}: {key} is {config[key]:g}, not above 0")
    edm = _scheduler(EDMEulerScheduler, config, folder).config
    if edm.get("sigma_schedule", "karras") != "karras":
        raise UserError(f"{folder}: sigma_schedule {edm.sigma_schedule} is not supported, only karras is")
    schedule = EDMSchedule(float(edm.sigma_min), float(edm.sigma_max), float(edm.rho))
    check_levels(schedule, f"{folder / SCHEDULER}: sigma_min, sigma_max, rho")
    return schedule, EDMPreconditioning(float(edm.sigma_data))


def _flow(config: dict[str, Any], folder: Path, tokens: int | None) -> FlowSchedule:
    """The levels that diffusers' flow schedulers make of `shift`, `flow_shift`, or of a picture's size."""
    path = folder / SCHEDULER
    if config.get("invert_sigmas"):
        raise UserError(f"{path}: invert_sigmas is not supported: its levels fall where others rise")
    shift = config.get("shift", config.get("flow_shift"))
    if config.get("use_dynamic_shifting"):
        shift = _shift_by_size(config, path, tokens)
    shift = 1.0 if shift is None else shift
    if not shift > 0:
        raise UserError(f"{path}: shift is {shift:g}, not above 0")
    flow = FlowSchedule(config.get("num_train_timesteps", 1000), shift)
    check_levels(flow, f"{path}: num_train_timesteps, shift")
    return flow


def _shift_by_size(config: dict[str, Any], path: Path, tokens: int | None) -> float:
    """s = e^μ, or μ itself, of a μ that is linear in the number of a picture's tokens."""
    if tokens is None:
        raise UserError(f"{path}: use_dynamic_shifting needs a picture's size, which is not known here")
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    first, last = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    if None in (low, high, first, last) or first == last:
        raise UserError(
            f"{path}: use_dynamic_shifting needs base_shift and max_shift, and base_image_seq_len other "
            "than max_image_seq_len"
        )
    mu = low + (high - low) * (tokens - first) / (last - first)
    kind = config.get("time_shift_type", "exponential")
    if kind not in ("exponential", "linear"):
        raise UserError(f"{path}: time_shift_type {shown(kind)} is not one of exponential, linear")
    if kind == "linear":
        return mu
    if mu > _LARGEST_MU:
        raise UserError(
            f"{path}: pictures of {tokens:,} tokens shift its levels by e^{mu:.0f}; smaller ones are needed, "
            f"as max_image_seq_len is {last}"
        )
    return math.exp(mu)


def _betas(config: dict[str, Any], folder: Path) -> VPSchedule:
    table = _scheduler(DDPMScheduler, config, folder).betas
    inside = (table > 0) & (table < 1)
    inside[-1:] |= table[-1:] == 1  # zero signal at the end
    if not inside.all():
        wrong = table[~inside][0]
        raise UserError(f"{folder / SCHEDULER}: β = {wrong:g} is not between 0 and 1, as betas must be")
    schedule = VPSchedule(table)
    check_levels(schedule, f"{folder / SCHEDULER}: its betas")
    return schedule


def _refuse_other_levels(config: dict[str, Any], folder: Path) -> None:
    """Settings that make other levels or timesteps of the same betas; to leave them out would be silent."""
    if (kind := config.get("timestep_type", "discrete")) != "discrete":
        raise UserError(
            f"{folder / SCHEDULER}: timestep_type {shown(kind)} is not supported, only discrete is: such a "
            "network is told ln(σ)/4, and its levels are not those of its betas"
        )
    if config.get("snr_shift_scale") not in (None, 1):
        raise UserError(
            f"{folder / SCHEDULER}: snr_shift_scale {config['snr_shift_scale']:g} is not supported: it "
            "shifts the levels of the betas"
        )


def _is_a(kind: str, value: Any) -> bool:
    match kind:
        case "text":
            return isinstance(value, str)
        case "truth value":
            return isinstance(value, bool)
        case "whole number":
            return isinstance(value, int) and not isinstance(value, bool)
        case "finite number":
            return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return isinstance(value, list) and all(_is_a("finite number", v) for v in value)


def _scheduler(kind: Any, config: dict[str, Any], folder: Path) -> Any:
    """diffusers' scheduler of that configuration."""
    with reading(f"{folder}:", "scheduler"):
        return kind.from_config(config)
