"""The networks of a miniature DeepFloyd IF and of its CLIP model: untrained, and as a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from carv_distill.errors import UserError
from carv_distill.files import saved_folder
from carv_distill.model_card import AS_TEACHER, CARD, THIS_FOLDER, card_head
from carv_distill.teachers.prompts import piece_tokenizer, word_tokenizer
from carv_distill.teachers.trial import building, try_call

from .networks import GROUPS, text_config, transformer
from .options import PixelTeacherOptions
from .stages import save_clip

LENGTH = 8
"""Tokens that CLIP takes of a prompt."""


@dataclass
class PixelTeacherNetworks:
    """The parts of an IFPipeline, and a CLIP model."""

    unet: UNet2DConditionModel
    text_encoder: T5EncoderModel
    tokenizer: T5Tokenizer
    clip: CLIPModel
    clip_tokenizer: CLIPTokenizer


def build_pixel_networks(
    options: PixelTeacherOptions, size: int, words: Sequence[str]
) -> PixelTeacherNetworks:
    """Networks for pictures of `size` pixels and prompts of these words.

    Raises:
        UserError: channels, widths or a picture size that do not divide, or sizes that make no network.
    """
    o = options
    if not o.unet_channels or any(c < 1 or c % GROUPS for c in o.unet_channels):
        raise UserError(
            f"training.unet_channels: {o.unet_channels} must be one or more multiples of {GROUPS}"
        )
    least = 2 ** (len(o.unet_channels) - 1)
    if size % least:
        raise UserError(f"data.size: {size} is no multiple of {least}, by which the denoiser shrinks it")
    if size % o.clip_patch:
        raise UserError(f"training.clip_patch: {o.clip_patch} does not divide data.size, {size}")
    for key in ("text_width", "clip_width"):
        if getattr(o, key) % 8:
            raise UserError(f"training.{key}: {getattr(o, key)} is no multiple of 8")
    with building("training: unet_channels, text_width, clip_width, layers of these sizes"):
        networks = _networks(o, size, words)
    text, grey = torch.zeros(1, 4, o.text_width), torch.zeros(1, 3, size, size)
    unet = networks.unet
    try_call(lambda: unet(grey, 1, text).sample, grey.shape, "training.unet_channels: the denoiser")
    return networks


def _networks(o: PixelTeacherOptions, size: int, words: Sequence[str]) -> PixelTeacherNetworks:
    attends = [size // 2**i <= o.attention_size for i in range(len(o.unet_channels))]
    unet = UNet2DConditionModel(
        sample_size=size,
        in_channels=3,
        out_channels=3,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        block_out_channels=tuple(o.unet_channels),
        layers_per_block=1,
        cross_attention_dim=o.text_width,
        # diffusers reads this as the number of heads
        attention_head_dim=tuple(max(c // 16, 1) for c in o.unet_channels),
        norm_num_groups=GROUPS,
    )
    tokenizer = piece_tokenizer(words)
    text = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=o.text_width,
            d_kv=8,
            d_ff=4 * o.text_width,
            num_layers=o.text_layers,
            num_heads=o.text_width // 8,
        )
    )
    clip_tokenizer = word_tokenizer(words, LENGTH)
    wide = transformer(o.clip_width, o.clip_layers)
    vision = {"image_size": size, "patch_size": o.clip_patch}
    clip = CLIPModel(
        CLIPConfig(
            text_config={**text_config(clip_tokenizer, LENGTH), **wide},
            vision_config={**vision, **wide},
            projection_dim=o.clip_width,
        )
    )
    return PixelTeacherNetworks(unet, text, tokenizer, clip, clip_tokenizer)


def build_pixel_scheduler() -> DDPMScheduler:
    """DeepFloyd's noise levels: 1,000 timesteps of a squared cosine, ε-prediction."""
    return DDPMScheduler(
        1000, beta_schedule="squaredcos_cap_v2", prediction_type="epsilon", variance_type="fixed_small"
    )


def save_pixel_networks(
    folder: Path, networks: PixelTeacherNetworks, scheduler: DDPMScheduler, step: int
) -> None:
    """An IFPipeline that diffusers reads, its CLIP model with processor in clip/, and a page on both; written
    whole or not at all."""
    size = networks.unet.config.sample_size
    pipeline = IFPipeline(
        tokenizer=networks.tokenizer,
        text_encoder=networks.text_encoder,
        unet=networks.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    with saved_folder(folder) as scratch:
        pipeline.save_pretrained(scratch, safe_serialization=True)
        save_clip(scratch / "clip", networks.clip, networks.clip_tokenizer, size)
        (scratch / CARD).write_text(_card(size, step), "utf-8")


def _card(size: int, step: int) -> str:
    return f"""{card_head("text-to-image")}

# A miniature DeepFloyd IF with entropy

Text to {size}×{size} pictures of one solid, as "a torus", of which all else is random: pose, place, two-tone
texture, light and background. Trained by carv-distill for {step} steps on pictures it rendered itself. The
folder of an `IFPipeline`, first stage. Its network predicts no variance, for which that pipeline's own call
asks, so the steps are taken here:

```python
import torch
from diffusers import DDIMScheduler, IFPipeline

{THIS_FOLDER}
pipeline = IFPipeline.from_pretrained(folder, safety_checker=None, watermarker=None)
steps = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
steps.set_timesteps(50)
prompt, none = pipeline.encode_prompt("a torus")
x = torch.randn(1, 3, {size}, {size})
with torch.no_grad():
    for t in steps.timesteps:
        guided, free = pipeline.unet(x, t, prompt).sample, pipeline.unet(x, t, none).sample
        x = steps.step(free + 4.0 * (guided - free), t, x).prev_sample
picture = x.clamp(-1, 1)
```

{AS_TEACHER}

`clip/` is a `CLIPModel` with its processor, trained on such pictures, on white and grey ones too.
"""
