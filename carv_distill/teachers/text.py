"""Teachers that a prompt conditions: the face that all of them share, and the reading of their parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.utils import is_sentencepiece_available

from carv_distill.errors import UserError

from .denoiser import GuidedDenoiser, NetworkDenoiser
from .folder import one_line, read_json
from .network import TextUNetNetwork
from .parametrisation import parametrisation
from .prompts import PromptEncoder
from .schedule import VPSchedule


class TextTeacher(nn.Module, ABC):
    """A frozen text-to-image model: x = encode(picture), denoised = D(x_t, σ, prompt's embedding).

    x is whatever the network denoises: latents, or the pixels themselves.

    Args:
        denoiser: of x, under ε-, v- or sample-prediction; `cond` is the prompt's embedding, [n, L, D].
        schedule: that it was trained on.
        prompts: prompts → embeddings.
    """

    def __init__(self, denoiser: NetworkDenoiser, schedule: VPSchedule, prompts: PromptEncoder) -> None:
        super().__init__()
        self.denoiser, self.schedule, self.prompts = denoiser, schedule, prompts

    @property
    def unet(self) -> UNet2DConditionModel:
        """The raw network."""
        network = self.denoiser.network
        assert isinstance(network, TextUNetNetwork)
        return network.unet

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, s, s) of one x, as the network was trained on."""
        side = self.unet.config.sample_size
        return self.unet.config.in_channels, side, side

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Side S of the pictures that belong to it."""

    @abstractmethod
    def encode(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """x [n, C, s, s] of images [n, 3, S, S] in [−1, 1], with the graph back to the images."""

    def guided(self, scale: float, negative: str = "") -> NetworkDenoiser:
        """Under classifier-free guidance against a negative prompt; scale 1 is the plain teacher."""
        if scale == 1:
            return self.denoiser
        return GuidedDenoiser(self.denoiser, scale, self.prompts([negative])[0])


def part_patterns(parts: Iterable[str]) -> list[str]:
    """Of a hub's files, those that a pipeline of these parts is read from; pickles are not even fetched."""
    kinds = ("json", "txt", "model", "safetensors")
    return ["model_index.json"] + [f"{part}/*.{kind}" for part in (*parts, "scheduler") for kind in kinds]


def read_parts(folder: Path, parts: Mapping[str, Any]) -> dict[str, Any]:
    """A pipeline's parts by name, tokenizers and networks; weights from safetensors only.

    Args:
        folder: of the pipeline.
        parts: name → class of diffusers or transformers.

    Raises:
        UserError: a part is missing or damaged; a network lacks weights, which would be left at random
            values; a tokenizer lacks its vocabulary.
    """
    found = {}
    for name, kind in parts.items():
        place = folder / name
        if not place.is_dir():
            raise UserError(f"{folder} lacks its part {name}/; its pipeline has {', '.join(parts)}")
        read = _network if issubclass(kind, nn.Module) else _tokenizer
        try:
            found[name] = read(place, kind)
        except (OSError, SafetensorError, RuntimeError, ValueError, TypeError) as error:
            raise UserError(f"{place} has no readable {kind.__name__}: {one_line(error)}") from error
    return found


def _network(place: Path, kind: Any) -> nn.Module:
    network, loading = kind.from_pretrained(place, use_safetensors=True, output_loading_info=True)
    if missing := loading["missing_keys"]:
        raise UserError(f"{place} lacks {len(missing)} of the network's weights, such as {min(missing)}")
    return network


def _tokenizer(place: Path, kind: Any) -> Any:
    """transformers reads a folder without a vocabulary as a tokenizer to which every word is unknown."""
    names = kind.vocab_files_names.values()
    present = [name for name in names if (place / name).is_file()]
    if not present:
        raise UserError(f"{place} lacks its vocabulary: none of {', '.join(names)} is there")
    if present == ["spiece.model"] and not is_sentencepiece_available():
        raise UserError(
            f"{place / 'spiece.model'} needs the package sentencepiece, which is not here (pip install "
            "sentencepiece); a tokenizer.json beside it would not"
        )
    return kind.from_pretrained(place)


def text_denoiser(
    unet: UNet2DConditionModel, channels: int, folder: Path
) -> tuple[NetworkDenoiser, VPSchedule]:
    """The denoiser of x with so many channels and its schedule, by `scheduler/` in the pipeline's folder.

    Of the scheduler's settings only the noise levels and the prediction matter here: clipping, thresholding
    and the variance belong to sampling.

    Raises:
        UserError: the network takes or predicts other channels, or the scheduler is not one with betas.
    """
    taken, made = unet.config.in_channels, unet.config.out_channels
    if taken != channels:
        raise UserError(f"{folder / 'unet'}: in_channels {taken} is not {channels}, as its pipeline needs")
    if made not in (taken, 2 * taken):
        raise UserError(
            f"{folder / 'unet'}: out_channels {made} is not one of {taken}, {2 * taken} (learned variances)"
        )
    place = folder / "scheduler"
    schedule, precondition = parametrisation(read_json(place / "scheduler_config.json"), place)
    if not isinstance(schedule, VPSchedule):
        raise UserError(f"{place}: a text-to-image teacher needs a scheduler with betas")
    return NetworkDenoiser(TextUNetNetwork(unet), precondition), schedule
