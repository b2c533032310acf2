"""Pixel text-to-image teachers: the parts of DeepFloyd-IF's first stage, an IFPipeline."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import T5EncoderModel, T5Tokenizer

from .prompts import T5PromptEncoder
from .text import TextTeacher, read_parts, text_denoiser

PARTS = {"unet": UNet2DConditionModel, "tokenizer": T5Tokenizer, "text_encoder": T5EncoderModel}


class PixelTeacher(TextTeacher):
    """A diffusion model of pictures themselves: x are pixels in [−1, 1], [n, 3, S, S]."""

    @property
    def image_size(self) -> int:
        """Side S of the pictures."""
        return self.shape[-1]

    def encode(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images; nothing is drawn."""
        return images


def read_pixel_teacher(folder: Path) -> PixelTeacher:
    """The teacher in an IFPipeline's folder.

    Raises:
        UserError: a part missing or damaged, or one that does not fit.
    """
    found = read_parts(folder, PARTS)
    denoiser, schedule = text_denoiser(found["unet"], 3, folder)
    return PixelTeacher(denoiser, schedule, T5PromptEncoder(found["tokenizer"], found["text_encoder"]))
