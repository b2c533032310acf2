"""Flux: flow matching in packed latents, a T5 and a CLIP model, guidance that the network is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from carv_distill.teachers.condition import Condition

from .codecs import ImageLatents
from .family import Family
from .network import PromptTransformer

_TOKENS = 512


class FluxNetwork(PromptTransformer):
    """F by a :class:`diffusers.FluxTransformer2DModel`, of latents that are packed by 2×2 inside."""

    @property
    def patch(self) -> tuple[int, ...]:
        return 2, 2

    @property
    def channels(self) -> tuple[int, int]:
        into, out = super().channels
        return into // 4, out // 4

    def call(self, x: Tensor, c_noise: Tensor, cond: Condition) -> Tensor:
        height, width = self.grid
        return unpacked(
            self.model(
                hidden_states=packed(x),
                timestep=c_noise / 1000,
                guidance=cond.guidance,
                pooled_projections=cond.pooled,
                encoder_hidden_states=cond.embeddings,
                txt_ids=x.new_zeros(cond.embeddings.shape[1], 3),
                img_ids=image_ids(height, width, x),
                return_dict=False,
            )[0],
            height,
            width,
        )


def packed(x: Tensor) -> Tensor:
    """[n, C, 2 h, 2 w] → [n, h w, 4 C]."""
    parts = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # n C h 2 w 2
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """[n, h w, 4 C] → [n, C, 2 h, 2 w]."""
    parts = tokens.unflatten(2, (-1, 2, 2)).unflatten(1, (height, width))  # n h w C 2 2
    return parts.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def image_ids(height: int, width: int, like: Tensor) -> Tensor:
    """(0, row, column) of each patch, [h w, 3]."""
    rows = torch.arange(height, device=like.device, dtype=like.dtype)
    columns = torch.arange(width, device=like.device, dtype=like.dtype)
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
    return torch.cat([torch.zeros_like(grid[:, :1]), grid], 1)


def _encode(pipeline: Any, prompts: Sequence[str], device: torch.device) -> Condition:
    embeddings, pooled, _ = pipeline.encode_prompt(
        list(prompts), None, device=device, max_sequence_length=_TOKENS
    )
    return Condition(embeddings, pooled=pooled)


FLUX = Family(
    pipeline=FluxPipeline,
    part="transformer",
    model=FluxTransformer2DModel,
    network=FluxNetwork,
    texts={
        "tokenizer": (CLIPTokenizer,),
        "tokenizer_2": (T5Tokenizer,),
        "text_encoder": (CLIPTextModel,),
        "text_encoder_2": (T5EncoderModel,),
    },
    lengths={"tokenizer_2": _TOKENS},
    encode=_encode,
    codec=ImageLatents,
    autoencoder=AutoencoderKL,
    flow=True,
    size=(1024, 1024),
    embeds_guidance=lambda config: bool(config.get("guidance_embeds")),
    arguments={"image_encoder": None, "feature_extractor": None},
)
