"""A random StableDiffusionPipeline of 20,000 parameters."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from carv_distill.teachers.pipelines.stable_diffusion import save_latent_teacher
from carv_distill.teachers.prompts import word_tokenizer

WORDS = ["a", "red", "blue", "torus", "cube", "side", "front", "view"]


def save_tiny_pipeline(folder: Path, prediction: str = "epsilon", timesteps: int = 50) -> Path:
    """Latents 4×4×4 of 8×8 pictures; the same weights at every call."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer(WORDS, length=10)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=10,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        sample_size=8,
        mid_block_add_attention=False,
    )
    unet = UNet2DConditionModel(
        sample_size=4,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        block_out_channels=(8,),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    scheduler = DDIMScheduler(
        timesteps, 0.00085, 0.012, "scaled_linear", prediction_type=prediction, clip_sample=False
    )
    save_latent_teacher(folder, vae, unet, tokenizer, text, scheduler)
    return folder
