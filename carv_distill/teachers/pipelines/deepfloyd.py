"""The first stage of DeepFloyd IF: pixels, a T5 encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import IFPipeline, UNet2DConditionModel
from transformers import T5EncoderModel, T5Tokenizer

from carv_distill.teachers.condition import Condition

from .codecs import Pixels
from .family import Family
from .network import PromptUNet


def _encode(pipeline: Any, prompts: Sequence[str], device: torch.device) -> Condition:
    return Condition(pipeline.encode_prompt(list(prompts), False, device=device)[0])


DEEPFLOYD = Family(
    pipeline=IFPipeline,
    part="unet",
    model=UNet2DConditionModel,
    network=PromptUNet,
    texts={"tokenizer": (T5Tokenizer,), "text_encoder": (T5EncoderModel,)},
    encode=_encode,
    codec=Pixels,
    lengths={"tokenizer": 77},
    normal=lambda prompt: prompt.lower().strip(),
    one_step={  # the pipeline reads variance_type, which others lack
        "_class_name": "DDPMScheduler",
        "timestep_spacing": "trailing",
        "variance_type": "fixed_small",
    },
    call={"guidance_scale": 1.0, "clean_caption": False},
    arguments={
        "safety_checker": None,
        "feature_extractor": None,
        "watermarker": None,
        "requires_safety_checker": False,
    },
)
