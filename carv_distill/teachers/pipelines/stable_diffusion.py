"""Stable Diffusion 1 and 2, and SDXL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from carv_distill.teachers.condition import Condition

from .codecs import ImageLatents
from .family import Family
from .network import PromptUNet


def _encode(pipeline: Any, prompts: Sequence[str], device: torch.device) -> Condition:
    return Condition(pipeline.encode_prompt(list(prompts), device, 1, False)[0])


STABLE_DIFFUSION = Family(
    pipeline=StableDiffusionPipeline,
    part="unet",
    model=UNet2DConditionModel,
    network=PromptUNet,
    texts={"tokenizer": (CLIPTokenizer,), "text_encoder": (CLIPTextModel,)},
    encode=_encode,
    codec=ImageLatents,
    autoencoder=AutoencoderKL,
    leaves_guidance=True,
    arguments={
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
        "requires_safety_checker": False,
    },
)


class SDXLUNet(PromptUNet):
    """F of SDXL: it is told the pooled embedding of the prompt, and the sizes of the picture.

    Source: Podell et al. 2023, section 2.2.
    """

    def added(self, cond: Condition) -> dict[str, Tensor]:
        assert cond.pooled is not None
        assert cond.time_ids is not None
        return {"text_embeds": cond.pooled, "time_ids": cond.time_ids}


def _encode_sdxl(pipeline: Any, prompts: Sequence[str], device: torch.device) -> Condition:
    embeddings, _, pooled, _ = pipeline.encode_prompt(
        list(prompts), device=device, do_classifier_free_guidance=False
    )
    return Condition(embeddings, pooled=pooled)


def _no_prompt(pipeline: Any, device: torch.device) -> Condition | None:
    """Zeros where the pipeline was trained so."""
    if not pipeline.config.force_zeros_for_empty_prompt:
        return None
    return _encode_sdxl(pipeline, [""], device).map(torch.zeros_like)


SDXL = Family(
    pipeline=StableDiffusionXLPipeline,
    part="unet",
    model=UNet2DConditionModel,
    network=SDXLUNet,
    texts={
        "tokenizer": (CLIPTokenizer,),
        "tokenizer_2": (CLIPTokenizer,),
        "text_encoder": (CLIPTextModel,),
        "text_encoder_2": (CLIPTextModelWithProjection,),
    },
    encode=_encode_sdxl,
    codec=ImageLatents,
    autoencoder=AutoencoderKL,
    null=_no_prompt,
    told_size=True,
    leaves_guidance=True,
    arguments={"image_encoder": None, "feature_extractor": None, "add_watermarker": False},
)


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
