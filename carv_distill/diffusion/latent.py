"""Latent text-to-image teachers: a StableDiffusionPipeline folder or hub id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from carv_distill.errors import UserError

from .denoiser import GuidedDenoiser, NetworkDenoiser
from .network import TextUNetNetwork
from .prompts import PromptEncoder
from .schedule import VPSchedule
from .teacher import local_folder, one_line, parametrisation, read_json

PARTS = {
    "vae": AutoencoderKL,
    "unet": UNet2DConditionModel,
    "tokenizer": CLIPTokenizer,
    "text_encoder": CLIPTextModel,
}
PATTERNS = ["model_index.json"] + [
    f"{part}/*.{kind}" for part in (*PARTS, "scheduler") for kind in ("json", "txt", "safetensors")
]
"""Of a hub's files; pickled weights are not even fetched."""


@dataclass
class LatentTeacher:
    """A frozen latent diffusion model that a prompt conditions."""

    denoiser: NetworkDenoiser
    """Of latents, under ε-, v- or sample-prediction; `cond` is the prompt's embedding, [n, L, D]."""
    schedule: VPSchedule
    vae: AutoencoderKL
    prompts: PromptEncoder

    @property
    def shrink(self) -> int:
        """Pixels per latent, along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_size(self) -> int:
        """Side of the latents that the network was trained on."""
        return self.unet.config.sample_size

    @property
    def image_size(self) -> int:
        """Side of the pictures that belong to it."""
        return self.latent_size * self.shrink

    @property
    def unet(self) -> UNet2DConditionModel:
        """The raw network."""
        network = self.denoiser.network
        assert isinstance(network, TextUNetNetwork)
        return network.unet

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> LatentTeacher:
        """Moves all its networks, in place."""
        for network in (self.denoiser, self.vae, self.prompts):
            network.to(device, dtype)
        return self

    def encode(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Latents [n, C, s, s] of images [n, 3, S, S] in [−1, 1], scaled; one posterior sample each, with the
        graph back to the images."""
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

    def guided(self, scale: float, negative: str = "") -> NetworkDenoiser:
        """Under classifier-free guidance against a negative prompt; scale 1 is the plain teacher."""
        if scale == 1:
            return self.denoiser
        return GuidedDenoiser(self.denoiser, scale, self.prompts([negative])[0])


def load_latent_teacher(path: str | Path) -> LatentTeacher:
    """A frozen teacher from the parts of a StableDiffusionPipeline; weights are read from safetensors only.

    Raises:
        UserError: nothing to load there, a part missing or damaged, or a parametrisation not known here.
    """
    folder = local_folder(str(path), PATTERNS)
    read_json(folder / "model_index.json")
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    found = {}
    for name, kind in PARTS.items():
        if not (folder / name).is_dir():
            raise UserError(
                f"{folder} lacks its part {name}/; a StableDiffusionPipeline has {', '.join(PARTS)}"
            )
        weights = {} if name == "tokenizer" else {"use_safetensors": True}
        try:
            found[name] = kind.from_pretrained(folder / name, **weights)
        except (OSError, SafetensorError, RuntimeError, ValueError, TypeError) as error:
            raise UserError(f"{folder / name} has no readable {kind.__name__}: {one_line(error)}") from error
    schedule, precondition = parametrisation(config, folder / "scheduler")
    if not isinstance(schedule, VPSchedule):
        raise UserError(f"{folder / 'scheduler'}: a latent teacher needs a scheduler with betas")
    denoiser = NetworkDenoiser(TextUNetNetwork(found["unet"]), precondition).requires_grad_(False).eval()
    vae = found["vae"].requires_grad_(False).eval()
    prompts = PromptEncoder(found["tokenizer"], found["text_encoder"].requires_grad_(False).eval())
    return LatentTeacher(denoiser, schedule, vae, prompts)


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
