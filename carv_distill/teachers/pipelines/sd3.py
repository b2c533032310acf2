"""Stable Diffusion 3: flow matching in latents, three text models of which the T5 may be left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from carv_distill.teachers.condition import Condition

from .codecs import ImageLatents
from .family import Family
from .network import PromptTransformer

_TOKENS = 256
"""Of a prompt, as the pipeline's call has it by default."""


class SD3Network(PromptTransformer):
    """F by a :class:`diffusers.SD3Transformer2DModel`.

    Source: Esser et al. 2024.
    """

    def call(self, x: Tensor, c_noise: Tensor, cond: Condition) -> Tensor:
        return self.model(
            hidden_states=x,
            timestep=c_noise,
            encoder_hidden_states=cond.embeddings,
            pooled_projections=cond.pooled,
            return_dict=False,
        )[0]


def _encode(pipeline: Any, prompts: Sequence[str], device: torch.device) -> Condition:
    words = list(prompts)
    embeddings, _, pooled, _ = pipeline.encode_prompt(
        words, words, words, device=device, do_classifier_free_guidance=False, max_sequence_length=_TOKENS
    )
    return Condition(embeddings, pooled=pooled)


SD3 = Family(
    pipeline=StableDiffusion3Pipeline,
    part="transformer",
    model=SD3Transformer2DModel,
    network=SD3Network,
    texts={
        "tokenizer": (CLIPTokenizer,),
        "tokenizer_2": (CLIPTokenizer,),
        "tokenizer_3": (T5Tokenizer,),
        "text_encoder": (CLIPTextModelWithProjection,),
        "text_encoder_2": (CLIPTextModelWithProjection,),
        "text_encoder_3": (T5EncoderModel,),
    },
    optional=("tokenizer_3", "text_encoder_3"),
    lengths={"tokenizer_3": _TOKENS},
    encode=_encode,
    codec=ImageLatents,
    autoencoder=AutoencoderKL,
    flow=True,
    call={"guidance_scale": 1.0},
    arguments={"image_encoder": None, "feature_extractor": None},
)
