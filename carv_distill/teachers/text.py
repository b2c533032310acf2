"""Teachers that a prompt conditions: of latents (a StableDiffusionPipeline) or of pixels (an IFPipeline)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer
from transformers.utils import is_sentencepiece_available

from carv_distill.errors import UserError, shown
from carv_distill.files import DIGESTS

from .denoiser import GuidedDenoiser, NetworkDenoiser
from .folder import local_folder, read_json, reading, refuse_code
from .network import TextUNetNetwork
from .prompts import CLIPPromptEncoder, PromptEncoder, T5PromptEncoder
from .schedule import VPSchedule
from .scheduler import parametrisation, read_scheduler
from .trial import try_call, try_denoiser
from .weights import read_network, require_side

PARTS: dict[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {
        "vae": AutoencoderKL,
        "unet": UNet2DConditionModel,
        "tokenizer": CLIPTokenizer,
        "text_encoder": CLIPTextModel,
    },
    "IFPipeline": {"unet": UNet2DConditionModel, "tokenizer": T5Tokenizer, "text_encoder": T5EncoderModel},
}
"""The parts that are read of a pipeline, each with its class."""


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


class LatentTeacher(TextTeacher):
    """A latent diffusion model: x are the scaled latents of an autoencoder."""

    def __init__(
        self, denoiser: NetworkDenoiser, schedule: VPSchedule, prompts: PromptEncoder, vae: AutoencoderKL
    ) -> None:
        super().__init__(denoiser, schedule, prompts)
        self.vae = vae

    @property
    def image_size(self) -> int:
        # the autoencoder halves it between two resolutions
        return self.shape[-1] * 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encode(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """One sample of the posterior of each image, scaled."""
        posterior = self.vae.encode(images.to(self.vae.dtype)).latent_dist
        noise = torch.randn(
            posterior.mean.shape, generator=generator, device=images.device, dtype=images.dtype
        )
        return (posterior.mean + posterior.std * noise).to(images.dtype) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images in [−1, 1] up to the decoder's error."""
        scaled = latents / self.vae.config.scaling_factor
        return self.vae.decode(scaled.to(self.vae.dtype), return_dict=False)[0].to(latents.dtype)


class PixelTeacher(TextTeacher):
    """A diffusion model of pictures themselves: x are pixels in [−1, 1], [n, 3, S, S]."""

    @property
    def image_size(self) -> int:
        return self.shape[-1]

    def encode(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return images


def load_text_teacher(path: str | Path) -> TextTeacher:
    """A frozen teacher from a StableDiffusionPipeline or an IFPipeline (DeepFloyd-IF's first stage), as
    `model_index.json` says; weights are read from safetensors only.

    Raises:
        UserError: no pipeline there, another one, or networks that cannot be called or do not go together.
    """
    # The index comes first: of a hub's pipeline that is refused, nothing else is fetched.
    index = local_folder(str(path), ["model_index.json"]) / "model_index.json"
    if not index.is_file():
        raise UserError(
            f"teacher.path: {path} has no model_index.json; it must be the folder of a pipeline, "
            f"{' or '.join(PARTS)}"
        )
    name = read_json(index).get("_class_name")
    if not isinstance(name, str) or name not in PARTS:
        raise UserError(f"teacher.path: {index} has _class_name {shown(name)}, not one of {', '.join(PARTS)}")
    kinds = (".json", ".txt", ".model", ".safetensors", DIGESTS)  # pickles are not even fetched
    patterns = [f"{part}/*{kind}" for part in (*PARTS[name], "scheduler") for kind in kinds]
    folder = local_folder(str(path), ["model_index.json", *patterns])
    parts = _read_parts(folder, PARTS[name])
    vae = parts.get("vae")
    denoiser, schedule = _denoiser(parts["unet"], 3 if vae is None else vae.config.latent_channels, folder)
    encoder = T5PromptEncoder if name == "IFPipeline" else CLIPPromptEncoder
    prompts = encoder(parts["tokenizer"], parts["text_encoder"])
    teacher = (
        PixelTeacher(denoiser, schedule, prompts)
        if vae is None
        else LatentTeacher(denoiser, schedule, prompts, vae)
    )
    teacher.requires_grad_(False).eval()
    _try(teacher, folder)
    return teacher


def _try(teacher: TextTeacher, folder: Path) -> None:
    """Every network once: the empty prompt's embedding, the denoiser with it, a grey picture's latents."""
    encoder, width = teacher.prompts.text_model, teacher.unet.config.cross_attention_dim
    assert encoder is not None
    embedding = try_call(
        lambda: teacher.prompts([""]),
        (1, teacher.prompts.length, encoder.config.hidden_size),
        f"{folder / 'text_encoder'}: the embedding of a prompt",
    )
    source = (
        f"{folder / 'unet'} (cross_attention_dim {width}; prompts' embeddings have {embedding.shape[-1]})"
    )
    try_denoiser(teacher.denoiser, teacher.schedule, teacher.shape, embedding, source)
    if isinstance(teacher, LatentTeacher):
        grey = torch.zeros(1, 3, teacher.image_size, teacher.image_size, dtype=teacher.vae.dtype)
        encode = lambda: teacher.vae.encode(grey).latent_dist.mean  # noqa: E731
        try_call(encode, (1, *teacher.shape), f"{folder / 'vae'}: the latents of a picture")


def _read_parts(folder: Path, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """A pipeline's tokenizers and networks by name."""
    parts = {}
    for name, kind in kinds.items():
        place = folder / name
        if not place.is_dir():
            raise UserError(f"{folder} lacks its part {name}/; its pipeline has {', '.join(kinds)}")
        read = read_network if issubclass(kind, nn.Module) else _read_tokenizer
        parts[name] = read(place, kind)
    return parts


def _read_tokenizer(place: Path, kind: Any) -> Any:
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
    refuse_code(place)
    with reading(f"{place} has", kind.__name__):
        tokenizer = kind.from_pretrained(place, trust_remote_code=False)
    if not isinstance(length := tokenizer.model_max_length, int) or length < 2:
        found = shown(length)
        raise UserError(f"{place}: model_max_length is {found}, not a whole number from 2 on (start and end)")
    return tokenizer


def _denoiser(unet: UNet2DConditionModel, channels: int, folder: Path) -> tuple[NetworkDenoiser, VPSchedule]:
    """The denoiser of x with so many channels and its schedule, by `scheduler/` in the pipeline's folder.

    Of the scheduler's settings only the noise levels and the prediction matter here: clipping, thresholding
    and the variance belong to sampling.
    """
    require_side(unet, "sample_size", folder / "unet")
    into, out = unet.config.in_channels, unet.config.out_channels
    if into != channels:
        raise UserError(f"{folder / 'unet'}: in_channels {into} is not {channels}, as its pipeline needs")
    if out not in (into, 2 * into):
        raise UserError(
            f"{folder / 'unet'}: out_channels {out} is not one of {into}, {2 * into} (learned variances)"
        )
    place = folder / "scheduler"
    schedule, precondition = parametrisation(read_scheduler(place), place)
    if not isinstance(schedule, VPSchedule):
        raise UserError(f"{place}: a text-to-image teacher needs a scheduler with betas")
    return NetworkDenoiser(TextUNetNetwork(unet), precondition), schedule


def save_latent_teacher(
    folder: Path,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    scheduler: object,
) -> None:
    """Writes a StableDiffusionPipeline folder, usable without this package."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
