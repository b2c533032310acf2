"""Wan 2.1: text to video by flow matching in latents, a UMT5 encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from torch import Tensor
from transformers import T5Tokenizer, UMT5EncoderModel

from carv_distill.teachers.condition import Condition

from .codecs import VideoLatents
from .family import Family
from .network import PromptTransformer

TOKENS = 512
"""Of a prompt, filled up with zeros: the network sees them, so that another number is another output."""


class WanNetwork(PromptTransformer):
    """F by a :class:`diffusers.WanTransformer3DModel`."""

    blocks = "blocks"

    def call(self, x: Tensor, c_noise: Tensor, cond: Condition) -> Tensor:
        return self.model(
            hidden_states=x, timestep=c_noise, encoder_hidden_states=cond.embeddings, return_dict=False
        )[0]


def _encode(pipeline: Any, prompts: Sequence[str], device: torch.device) -> Condition:
    embeddings, _ = pipeline.encode_prompt(
        list(prompts), do_classifier_free_guidance=False, device=device, max_sequence_length=TOKENS
    )
    return Condition(embeddings)


WAN = Family(
    pipeline=WanPipeline,
    part="transformer",
    model=WanTransformer3DModel,
    network=WanNetwork,
    texts={"tokenizer": (T5Tokenizer,), "text_encoder": (UMT5EncoderModel,)},
    lengths={"tokenizer": TOKENS},
    encode=_encode,
    codec=VideoLatents,
    autoencoder=AutoencoderKLWan,
    flow=True,
    call={"guidance_scale": 1.0},
    size=(81, 480, 832),
)
