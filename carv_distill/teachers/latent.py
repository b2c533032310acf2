"""Latent text-to-image teachers: the parts of a StableDiffusionPipeline."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .denoiser import NetworkDenoiser
from .prompts import CLIPPromptEncoder, PromptEncoder
from .schedule import VPSchedule
from .text import TextTeacher, read_parts, text_denoiser

PARTS = {
    "vae": AutoencoderKL,
    "unet": UNet2DConditionModel,
    "tokenizer": CLIPTokenizer,
    "text_encoder": CLIPTextModel,
}


class LatentTeacher(TextTeacher):
    """A latent diffusion model: x are the scaled latents of an autoencoder.

    Args:
        denoiser, schedule, prompts: see :class:`TextTeacher`.
        vae: the autoencoder.
    """

    def __init__(
        self, denoiser: NetworkDenoiser, schedule: VPSchedule, prompts: PromptEncoder, vae: AutoencoderKL
    ) -> None:
        super().__init__(denoiser, schedule, prompts)
        self.vae = vae

    @property
    def image_size(self) -> int:
        """Side S of the pictures that belong to it; the autoencoder halves it between two resolutions."""
        return self.shape[-1] * 2 ** (len(self.vae.config.block_out_channels) - 1)

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


def read_latent_teacher(folder: Path) -> LatentTeacher:
    """The teacher in a StableDiffusionPipeline's folder.

    Raises:
        UserError: a part missing or damaged, or one that does not fit.
    """
    found = read_parts(folder, PARTS)
    vae = found["vae"]
    denoiser, schedule = text_denoiser(found["unet"], vae.config.latent_channels, folder)
    prompts = CLIPPromptEncoder(found["tokenizer"], found["text_encoder"])
    return LatentTeacher(denoiser, schedule, prompts, vae)


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
