"""Folders in diffusers' layout: where they lie, their networks, their noise levels and predictions."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler, EDMEulerScheduler
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError

from carv_distill.errors import UserError, one_line

from .denoiser import (
    EDMPreconditioning,
    EpsPreconditioning,
    Preconditioning,
    SamplePreconditioning,
    VPreconditioning,
)
from .schedule import EDMSchedule, NoiseSchedule, VPSchedule

_VARIANTS = ["*.fp16*", "*.bf16*", "*.non_ema*"]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PREDICTIONS: dict[str, Callable[[VPSchedule], Preconditioning]] = {
    "epsilon": EpsPreconditioning,
    "v_prediction": VPreconditioning,
    "sample": SamplePreconditioning,
}


def local_folder(path: str, patterns: Sequence[str] = ("*.json", "*.safetensors")) -> Path:
    """The folder itself, or where the hub's files that match the patterns now lie.

    Variants of the same weights (half precision and the like) are not fetched: they would not be read.

    Raises:
        UserError: neither a folder nor a model of the hub; a pickle.
    """
    if Path(path).is_dir():
        return Path(path)
    if path.endswith(".pkl"):
        raise UserError(
            f"teacher.path: {path} is a pickle, which is never opened here; convert it first: "
            f"python -m carv_distill.teachers.convert {path} FOLDER"
        )
    # runs/x or checkpoints/x, with the folder misspelt, is not meant for the hub
    if not _HUB_ID.fullmatch(path) or Path(path).parent.is_dir():
        raise UserError(f"teacher.path: {path} is not a folder, nor a hub id such as google/ddpm-cifar10-32")
    try:
        return Path(snapshot_download(path, allow_patterns=list(patterns), ignore_patterns=_VARIANTS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"teacher.path: {path} is not a folder here, and the hub gave no such model: {one_line(error)}"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: no such file, or something else in it.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; a diffusers folder has it")
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object")
    return content


@contextmanager
def reading(place: str, what: str) -> Iterator[None]:
    """A block in which diffusers or transformers read something.

    Raises:
        UserError: it is missing or damaged; "`place` no readable `what`: …", in one line.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"{place} no readable {what}: {one_line(error)}") from error


def read_network(folder: Path, kind: Any, low_memory: bool = True) -> Any:
    """A network of one of diffusers' or transformers' classes, from safetensors only.

    Args:
        low_memory: its weights are never initialised, only read.

    Raises:
        UserError: it is missing, damaged, or lacks weights, which would be left at random values.
    """
    with reading(f"{folder} has", kind.__name__):
        network, loading = kind.from_pretrained(
            folder, use_safetensors=True, low_cpu_mem_usage=low_memory, output_loading_info=True
        )
    if missing := loading["missing_keys"]:
        raise UserError(f"{folder} lacks {len(missing)} of the network's weights, such as {min(missing)}")
    return network


def parametrisation(config: dict[str, Any], folder: Path) -> tuple[NoiseSchedule, Preconditioning]:
    """The schedule of a diffusers scheduler's configuration, and what the network predicts on it.

    EDM schedulers give the EDM preconditioning, those with betas ε-, v- or sample-prediction, as their
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
        return EDMSchedule(edm.sigma_min, edm.sigma_max, edm.rho), EDMPreconditioning(edm.sigma_data)
    if "beta_schedule" not in config and config.get("trained_betas") is None:
        raise UserError(
            f"{folder}: scheduler {name} has neither betas nor EDM noise levels; known are EDM schedulers "
            "and those with a beta schedule"
        )
    vp = VPSchedule(_scheduler(DDPMScheduler, config, folder).betas)
    if not math.isfinite(vp.sigma_max):
        raise UserError(f"{folder}: a schedule with zero signal at its end (β = 1) is not supported")
    if prediction not in _PREDICTIONS:
        raise UserError(f"{folder}: prediction_type {prediction!r} is not one of {', '.join(_PREDICTIONS)}")
    return vp, _PREDICTIONS[prediction](vp)


def _scheduler(kind: Any, config: dict[str, Any], folder: Path) -> Any:
    """diffusers' scheduler of that configuration."""
    with reading(f"{folder}:", "scheduler"):
        return kind.from_config(config)
