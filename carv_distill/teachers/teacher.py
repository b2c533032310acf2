"""A teacher of images: loading and saving it as a folder (or hub id) that diffusers reads."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import EDMEulerScheduler, ModelMixin, UNet2DModel
from safetensors import SafetensorError

from carv_distill.errors import UserError, one_line, shown
from carv_distill.files import updated_folder, write_json

from .denoiser import GuidedDenoiser, NetworkDenoiser
from .edm.networks import DhariwalUNet, SongUNet
from .edm.unet import EDMNetwork
from .folder import local_folder, model_inside, read_json
from .network import ImageNetwork, UNetNetwork
from .schedule import EDMSchedule, LogNormalSchedule, NoiseSchedule
from .scheduler import SCHEDULER, parametrisation, read_scheduler
from .trial import try_denoiser
from .weights import read_network, require_side

NETWORKS: dict[str, tuple[type[ModelMixin], type[ImageNetwork]]] = {
    "UNet2DModel": (UNet2DModel, UNetNetwork),
    "SongUNet": (SongUNet, EDMNetwork),
    "DhariwalUNet": (DhariwalUNet, EDMNetwork),
}
"""The networks of a teacher of images with their face, by the `_class_name` in their `config.json`."""
PIPELINE = "model_index.json"
"""Which pipeline of diffusers a folder is of."""
TRAINING = "training.json"
"""What a teacher learned from: noise levels ln σ ~ N(p_mean, p_std²), as EDM has them, and the names of
`classes`; or which of the rendered `clips` or `shapes`."""


@dataclass
class Teacher:
    """A network denoiser with the noise schedule it was trained on."""

    denoiser: NetworkDenoiser
    schedule: NoiseSchedule
    scheduler_config: dict[str, Any]
    """The scheduler's diffusers configuration, with which a student is saved too."""
    levels: LogNormalSchedule | None = None
    """Noise levels of its training, where the folder says them,"""
    classes: tuple[str, ...] = ()
    """and what its labels 0, 1, … are called."""

    @property
    def network(self) -> ImageNetwork:
        """The raw network."""
        network = self.denoiser.network
        assert isinstance(network, ImageNetwork)
        return network

    @property
    def channels(self) -> int:
        """Channels of one image."""
        return self.network.channels

    @property
    def size(self) -> int:
        """Side of one image in pixels."""
        return self.network.size

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
        return GuidedDenoiser(self.denoiser, scale, torch.tensor(classes))


def load_teacher(path: str | Path) -> Teacher:
    """A frozen teacher from a diffusers folder or hub id with a network and a scheduler.

    The two may lie in the folder itself (`config.json`, `scheduler_config.json`, as
    ``google/ddpm-cifar10-32`` has them) or in `unet/` and `scheduler/`. The network is one of
    :data:`NETWORKS`; for the scheduler see :func:`~.scheduler.parametrisation`. Weights are read from
    safetensors only: a pickle is never opened. The network is called once at either end of the levels.

    Raises:
        UserError: another network, or one that predicts variances too, is conditioned in another way or
            cannot be called; whatever is wrong with its files.
    """
    folder = local_folder(str(path))
    unet_folder = folder / "unet" if (folder / "unet").is_dir() else folder
    scheduler_folder = _scheduler_folder(folder)
    _refuse_others(folder, unet_folder)
    about = read_json(unet_folder / "config.json")
    name = about.get("_class_name", UNet2DModel.__name__)
    config = read_scheduler(scheduler_folder)
    if not isinstance(name, str) or name not in NETWORKS:
        raise UserError(
            f"{unet_folder / 'config.json'}: _class_name {shown(name)} is not one of {', '.join(NETWORKS)}"
        )
    if name == UNet2DModel.__name__:
        _refuse_other_embeddings(about, unet_folder)
    kind, face = NETWORKS[name]
    unet = read_network(unet_folder, kind, low_memory=False)
    require_side(unet, face.size_key, unet_folder)
    if unet.config.out_channels != unet.config.in_channels:
        raise UserError(
            f"{unet_folder} predicts {unet.config.out_channels} channels for "
            f"{unet.config.in_channels}; learned variances are not supported"
        )
    schedule, precondition = parametrisation(config, scheduler_folder)
    denoiser = NetworkDenoiser(raw_network(unet), precondition).requires_grad_(False).eval()
    levels, classes = _training(folder / TRAINING, schedule)
    teacher = Teacher(denoiser, schedule, config, levels, classes)
    label = torch.tensor([teacher.labels - 1]) if teacher.labels else None
    shape = teacher.channels, teacher.size, teacher.size
    try_denoiser(denoiser, schedule, shape, label, str(unet_folder))
    return teacher


def load_schedule(folder: Path) -> NoiseSchedule:
    """That of a folder that :func:`load_teacher` reads, without its weights.

    Raises:
        UserError: as there.
    """
    place = _scheduler_folder(folder)
    return parametrisation(read_scheduler(place), place)[0]


def _scheduler_folder(folder: Path) -> Path:
    return folder / "scheduler" if (folder / "scheduler").is_dir() else folder


def _refuse_others(folder: Path, network: Path) -> None:
    """A run's folder, and a pipeline of another kind by its class, rather than by what they lack of an image
    teacher."""
    index, config = folder / PIPELINE, network / "config.json"
    if not index.is_file():
        if not config.is_file() and (inside := model_inside(folder)):
            raise UserError(f"teacher.path: {folder} is no teacher's folder{inside}")
        return
    if not config.is_file() or read_json(config).get("_class_name", UNet2DModel.__name__) not in NETWORKS:
        name = shown(read_json(index).get("_class_name"))
        raise UserError(
            f"teacher.path: {folder} is a {name}; pictures with labels, or with neither labels nor captions, "
            f"go with a teacher of one network ({', '.join(NETWORKS)}) and its scheduler, and this one, if "
            "prompts condition it, with pictures or clips with captions"
        )


def _training(file: Path, schedule: NoiseSchedule) -> tuple[LogNormalSchedule | None, tuple[str, ...]]:
    """ln σ ~ N(p_mean, p_std²) within the schedule's ends; names of classes."""
    if not file.is_file():
        return None, ()
    content = read_json(file)
    classes = content.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{file}: classes is {shown(classes)}; a list of names is wanted")
    levels = _levels(file, content, schedule) if isinstance(schedule, EDMSchedule) else None
    return levels, tuple(classes)


def _levels(file: Path, content: dict[str, Any], schedule: EDMSchedule) -> LogNormalSchedule:
    try:
        mean, std = float(content["p_mean"]), float(content["p_std"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{file}: p_mean and p_std must be numbers, found {shown(content)}") from error
    if not (math.isfinite(mean) and 0 < std < math.inf):
        raise UserError(f"{file}: p_mean {mean:g}, p_std {std:g}; finite numbers, p_std above 0, are allowed")
    return LogNormalSchedule(mean, std, schedule.sigma_min, schedule.sigma_max)


def _refuse_other_embeddings(config: dict[str, Any], folder: Path) -> None:
    """Embeddings of labels and noise levels that :class:`UNetNetwork` would feed wrongly."""
    for key, allowed in (("class_embed_type", (None,)), ("time_embedding_type", ("positional",))):
        value = config.get(key, allowed[0])
        if value not in allowed:
            supported = "null, with num_class_embeds" if key == "class_embed_type" else allowed[0]
            raise UserError(
                f"{folder / 'config.json'}: {key} {shown(value)} is not supported (allowed: {supported})"
            )


def raw_network(unet: ModelMixin) -> ImageNetwork:
    """F(x, c_noise, cond) by one of :data:`NETWORKS`."""
    return NETWORKS[type(unet).__name__][1](unet)


def save_teacher(
    folder: Path,
    network: ImageNetwork | ModelMixin,
    scheduler_config: dict[str, Any],
    card: str,
    levels: LogNormalSchedule | None = None,
    classes: Sequence[str] = (),
) -> None:
    """Writes `config.json`, safetensors, `scheduler_config.json` and a model card, each file atomically.

    Args:
        network: one of :data:`NETWORKS`, or the raw network around it.
        levels, classes: of its training, kept in :data:`TRAINING`.

    Raises:
        UserError: a file could not be written; those that were there before stay.
    """
    raw = network if isinstance(network, ImageNetwork) else raw_network(network)
    try:
        with updated_folder(folder) as scratch:
            raw.save(scratch)
            text = json.dumps(scheduler_config, indent=2, sort_keys=True) + "\n"
            (scratch / SCHEDULER).write_text(text)
            (scratch / "README.md").write_text(card)
            if levels is not None:
                about: dict[str, Any] = {"p_mean": levels.mean, "p_std": levels.std}
                about |= {"classes": list(classes)} if classes else {}
                write_json(scratch / TRAINING, about)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: could not be written ({one_line(error)})") from error


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
