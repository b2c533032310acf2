"""The networks of a miniature Stable Diffusion and of its CLIP model: untrained, and as a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
)

from carv_distill.errors import UserError
from carv_distill.files import saved_folder, write_json
from carv_distill.model_card import AS_TEACHER, CARD, THIS_FOLDER, card_head
from carv_distill.teachers.pipelines.stable_diffusion import save_latent_teacher
from carv_distill.teachers.prompts import word_tokenizer
from carv_distill.teachers.teacher import TRAINING
from carv_distill.teachers.trial import building, try_call

from .options import TextTeacherOptions
from .stages import save_clip

GROUPS = 8


@dataclass
class TextTeacherNetworks:
    """The parts of a StableDiffusionPipeline, and a CLIP model that shares the tokenizer."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    clip: CLIPModel


def build_networks(
    options: TextTeacherOptions, size: int, words: Sequence[str], length: int
) -> TextTeacherNetworks:
    """Networks for pictures of `size` pixels and prompts of these words, at most `length` tokens long.

    Raises:
        UserError: channels, widths or a picture size that do not divide, or sizes that make no network.
    """
    o = options
    for key in ("vae_channels", "unet_channels"):
        channels = getattr(o, key)
        if not channels or any(c < 1 or c % GROUPS for c in channels):
            raise UserError(f"training.{key}: {channels} must be one or more multiples of {GROUPS}")
    shrink = 2 ** (len(o.vae_channels) - 1)
    least = shrink * 2 ** (len(o.unet_channels) - 1)
    if size % least:
        why = "by which autoencoder and denoiser shrink it"
        raise UserError(f"data.size: {size} is no multiple of {least}, {why}")
    if size % o.clip_patch:
        raise UserError(f"training.clip_patch: {o.clip_patch} does not divide data.size, {size}")
    for key in ("text_width", "clip_width"):
        if getattr(o, key) % 8:
            raise UserError(f"training.{key}: {getattr(o, key)} is no multiple of 8")
    tokenizer = word_tokenizer(words, length)
    with building("training: vae_channels, unet_channels, text_width, clip_width, layers of these sizes"):
        networks = _networks(o, size, tokenizer, length)
    side = size // shrink
    grey, latents = torch.zeros(1, 3, size, size), torch.zeros(1, o.latent_channels, side, side)
    text = torch.zeros(1, length, o.text_width)
    vae, unet = networks.vae, networks.unet
    try_call(lambda: vae.encode(grey).latent_dist.mean, latents.shape, "training.vae_channels: latents")
    try_call(lambda: unet(latents, 1, text).sample, latents.shape, "training.unet_channels: the denoiser")
    return networks


def _networks(o: TextTeacherOptions, size: int, tokenizer: CLIPTokenizer, length: int) -> TextTeacherNetworks:
    levels = len(o.vae_channels)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(o.vae_channels),
        latent_channels=o.latent_channels,
        norm_num_groups=GROUPS,
        sample_size=size,
        mid_block_add_attention=False,
    )
    side = size // 2 ** (len(o.vae_channels) - 1)
    sides = [side // 2**level for level in range(len(o.unet_channels))]
    attends = [o.attention_size is None or side <= o.attention_size for side in sides]
    unet = UNet2DConditionModel(
        sample_size=side,
        in_channels=o.latent_channels,
        out_channels=o.latent_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        block_out_channels=tuple(o.unet_channels),
        layers_per_block=1,
        cross_attention_dim=o.text_width,
        # diffusers reads this as the number of heads
        attention_head_dim=tuple(max(c // 16, 1) for c in o.unet_channels),
        norm_num_groups=GROUPS,
    )
    text = text_config(tokenizer, length)
    text_encoder = CLIPTextModel(CLIPTextConfig(**text, **transformer(o.text_width, o.text_layers)))
    vision = {"image_size": size, "patch_size": o.clip_patch}
    wide = transformer(o.clip_width, o.clip_layers)
    clip = CLIPModel(
        CLIPConfig(
            text_config={**text, **wide}, vision_config={**vision, **wide}, projection_dim=o.clip_width
        )
    )
    return TextTeacherNetworks(vae, unet, text_encoder, tokenizer, clip)


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise levels: 1,000 timesteps, scaled-linear betas, ε-prediction."""
    return DDIMScheduler(
        1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )


def text_config(tokenizer: CLIPTokenizer, length: int) -> dict[str, Any]:
    """What a CLIP text model's configuration says of its tokenizer and the length of a prompt."""
    return {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def transformer(width: int, layers: int) -> dict[str, Any]:
    """And of its sizes."""
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(width // 16, 1),
    }


def save_networks(
    folder: Path,
    networks: TextTeacherNetworks,
    scheduler: DDIMScheduler,
    step: int,
    source: Mapping[str, float] | None = None,
) -> None:
    """A StableDiffusionPipeline that diffusers reads, its CLIP model with processor in clip/, a page on both
    and which rendered pictures they learned from (None: a part of some); written whole or not at all."""
    size = networks.vae.config.sample_size
    parts = networks.vae, networks.unet, networks.tokenizer, networks.text_encoder
    with saved_folder(folder) as scratch:
        save_latent_teacher(scratch, *parts, scheduler)
        save_clip(scratch / "clip", networks.clip, networks.tokenizer, size)
        (scratch / CARD).write_text(_card(size, step), "utf-8")
        write_json(scratch / TRAINING, {"shapes": None if source is None else dict(source)})


def _card(size: int, step: int) -> str:
    return f"""{card_head("text-to-image")}

# A miniature Stable Diffusion

Text to {size}×{size} pictures of one coloured solid on grey, as "a red torus, side view"; trained by
carv-distill for {step} steps on pictures it rendered itself. A `StableDiffusionPipeline`:

```python
from diffusers import StableDiffusionPipeline

{THIS_FOLDER}
pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
pipeline("a red torus, side view", height={size}, width={size}).images[0]
```

{AS_TEACHER}

`clip/` is a `CLIPModel` with its processor, trained on the same pairs.
"""
