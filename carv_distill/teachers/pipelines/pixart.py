"""PixArt-α and PixArt-Σ: ε-prediction by a transformer, a T5 encoder whose padding is masked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, PixArtAlphaPipeline, PixArtSigmaPipeline, PixArtTransformer2DModel
from torch import Tensor
from transformers import T5EncoderModel, T5Tokenizer

from carv_distill.teachers.condition import Condition

from .codecs import ImageLatents
from .family import Family
from .network import PromptTransformer


class PixArtNetwork(PromptTransformer):
    """F by a :class:`diffusers.PixArtTransformer2DModel`; the variances that it predicts too are dropped.

    Source: Chen et al. 2023 (PixArt-α), section 2.3.
    """

    def call(self, x: Tensor, c_noise: Tensor, cond: Condition) -> Tensor:
        out = self.model(
            x,
            encoder_hidden_states=cond.embeddings,
            encoder_attention_mask=cond.mask,
            timestep=c_noise,
            added_cond_kwargs=self._sizes(cond),
            return_dict=False,
        )[0]
        return out[:, : x.shape[1]]

    def _sizes(self, cond: Condition) -> dict[str, Tensor | None]:
        """Height and width in pixels and their ratio, of which the α networks of 1024 pixels are told."""
        if self.config["sample_size"] != 128 or not self.model.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        assert cond.time_ids is not None
        size = cond.time_ids[:, 4:]
        return {"resolution": size, "aspect_ratio": size[:, :1] / size[:, 1:]}


def _encode(pipeline: Any, prompts: Sequence[str], device: torch.device, tokens: int) -> Condition:
    embeddings, mask, _, _ = pipeline.encode_prompt(
        list(prompts), do_classifier_free_guidance=False, device=device, max_sequence_length=tokens
    )
    return Condition(embeddings, mask=mask)


PIXART_ALPHA = Family(
    pipeline=PixArtAlphaPipeline,
    part="transformer",
    model=PixArtTransformer2DModel,
    network=PixArtNetwork,
    texts={"tokenizer": (T5Tokenizer,), "text_encoder": (T5EncoderModel,)},
    lengths={"tokenizer": 120},
    encode=partial(_encode, tokens=120),
    codec=ImageLatents,
    autoencoder=AutoencoderKL,
    normal=lambda prompt: prompt.lower().strip(),
    told_size=True,
    call={"guidance_scale": 1.0, "clean_caption": False, "use_resolution_binning": False},
)
PIXART_SIGMA = replace(
    PIXART_ALPHA,
    pipeline=PixArtSigmaPipeline,
    lengths={"tokenizer": 300},
    encode=partial(_encode, tokens=300),
)
