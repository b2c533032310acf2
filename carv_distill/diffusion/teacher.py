"""Loading and saving a teacher: a folder (or hub id) that diffusers reads, nothing else."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler, EDMEulerScheduler, UNet2DModel
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError

from carv_distill.errors import UserError

from .denoiser import (
    EDMPreconditioning,
    EpsPreconditioning,
    GuidedDenoiser,
    NetworkDenoiser,
    Preconditioning,
    SamplePreconditioning,
    VPreconditioning,
)
from .network import UNetNetwork
from .schedule import EDMSchedule, NoiseSchedule, VPSchedule

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass
class Teacher:
    """A network denoiser with the noise schedule it was trained on."""

    denoiser: NetworkDenoiser
    schedule: NoiseSchedule
    scheduler_config: dict[str, Any]
    """The scheduler's diffusers configuration: kept so that a student is saved with the same one."""

    @property
    def network(self) -> UNetNetwork:
        """The raw network."""
        network = self.denoiser.network
        assert isinstance(network, UNetNetwork)
        return network

    @property
    def channels(self) -> int:
        """Channels of one image."""
        return self.network.unet.config.in_channels

    @property
    def size(self) -> int:
        """Side of one image in pixels."""
        return self.network.unet.config.sample_size

    @property
    def labels(self) -> int:
        """Class embeddings, the null label included; 0 for an unconditional teacher."""
        return self.network.labels

    def guided(self, scale: float, classes: int) -> NetworkDenoiser:
        """The teacher under classifier-free guidance; scale 1 is the plain teacher.

        Raises:
            UserError: the teacher has no label beyond its `classes` that could stand for "no condition".
        """
        if scale == 1:
            return self.denoiser
        if self.labels != classes + 1:
            raise UserError(
                f"teacher.guidance: {scale:g} needs a teacher trained with dropped labels, that is "
                f"{classes + 1} class embeddings for {classes} classes; found {self.labels}"
            )
        return GuidedDenoiser(self.denoiser, scale, null_label=classes)


def load_teacher(path: str | Path) -> Teacher:
    """A frozen teacher from a diffusers folder or hub id with a UNet2DModel and a scheduler.

    The two may lie in the folder itself (`config.json`, `scheduler_config.json`, as
    ``google/ddpm-cifar10-32`` has them) or in `unet/` and `scheduler/`. An EDM scheduler gives the EDM
    preconditioning; one with betas gives ε-, v- or sample-prediction, as its `prediction_type` says.
    Weights are read from safetensors only: a pickle is never opened.

    Raises:
        UserError: nothing to load there, a part missing or damaged, or a parametrisation not known here.
    """
    folder = _local_folder(str(path))
    unet_folder = folder / "unet" if (folder / "unet").is_dir() else folder
    scheduler_folder = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
    _read_json(unet_folder / "config.json")
    config = _read_json(scheduler_folder / "scheduler_config.json")
    try:
        unet, loading = UNet2DModel.from_pretrained(
            unet_folder, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"{unet_folder} has no readable UNet2DModel: {_one_line(error)}") from error
    if loading["missing_keys"]:
        # diffusers would leave them at random values
        raise UserError(
            f"{unet_folder} lacks {len(loading['missing_keys'])} of the network's weights, "
            f"such as {min(loading['missing_keys'])}"
        )
    if unet.config.out_channels != unet.config.in_channels:
        raise UserError(
            f"{unet_folder} predicts {unet.config.out_channels} channels for "
            f"{unet.config.in_channels}; learned variances are not supported"
        )
    schedule, precondition = _parametrisation(config, scheduler_folder)
    denoiser = NetworkDenoiser(UNetNetwork(unet), precondition).requires_grad_(False).eval()
    return Teacher(denoiser, schedule, config)


def save_teacher(folder: Path, unet: UNet2DModel, scheduler_config: dict[str, Any], card: str) -> None:
    """Writes `config.json`, safetensors, `scheduler_config.json` and a model card, each file atomically.

    Raises:
        UserError: a file could not be written; those that were there before are kept.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            unet.save_pretrained(scratch, safe_serialization=True)
            text = json.dumps(scheduler_config, indent=2, sort_keys=True) + "\n"
            Path(scratch, "scheduler_config.json").write_text(text)
            Path(scratch, "README.md").write_text(card)
            for file in sorted(Path(scratch).iterdir()):
                file.chmod(0o644)  # safetensors makes its files unreadable to others
                os.replace(file, folder / file.name)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: could not be written ({_one_line(error)})") from error


def edm_scheduler_config(schedule: EDMSchedule, sigma_data: float) -> dict[str, Any]:
    """The diffusers configuration of an EDM parametrisation."""
    scheduler = EDMEulerScheduler(
        sigma_min=schedule.sigma_min,
        sigma_max=schedule.sigma_max,
        sigma_data=sigma_data,
        rho=schedule.rho,
        prediction_type="epsilon",  # diffusers' name for c_out = +σ σ_d/√(σ² + σ_d²)
    )
    return json.loads(scheduler.to_json_string())


def _local_folder(path: str) -> Path:
    if Path(path).is_dir():
        return Path(path)
    # runs/x or checkpoints/x, with the folder misspelt, is not meant for the hub
    if not _HUB_ID.fullmatch(path) or Path(path).parent.is_dir():
        raise UserError(f"teacher.path: {path} is not a folder, nor a hub id such as google/ddpm-cifar10-32")
    try:
        return Path(snapshot_download(path, allow_patterns=["*.json", "*.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"teacher.path: {path} is not a folder here, and the hub gave no such model: {_one_line(error)}"
        ) from error


def _parametrisation(config: dict[str, Any], folder: Path) -> tuple[NoiseSchedule, Preconditioning]:
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
        raise UserError(f"{folder}: no readable scheduler: {_one_line(error)}") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} is missing; a diffusers folder has it")
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object")
    return content


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
