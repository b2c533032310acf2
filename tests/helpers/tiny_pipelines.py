"""Random pipelines of every family, some 10,000 parameters each, in diffusers' own folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from carv_distill.teachers.prompts import word_tokenizer
from tests.helpers.tiny_latent import WORDS, save_tiny_pipeline
from tests.helpers.tiny_pixel import save_tiny_if_pipeline

TIMESTEPS = 50


def clip_tokenizer() -> CLIPTokenizer:
    return word_tokenizer(WORDS, length=10)


def clip_text(kind: Any = CLIPTextModel, width: int = 8, projection: int = 8) -> Any:
    tokenizer = clip_tokenizer()
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=16,
            projection_dim=projection,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=10,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def t5_tokenizer() -> T5Tokenizer:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), (",", -2.0), ("s", -4.0)]
    return T5Tokenizer(vocab=[*special, *((f"▁{word}", -3.0) for word in WORDS)], extra_ids=0)


def t5_text(config: Any = T5Config, kind: Any = T5EncoderModel, width: int = 12) -> Any:
    size = len(t5_tokenizer())
    return kind(config(vocab_size=size, d_model=width, d_kv=4, d_ff=16, num_layers=2, num_heads=2))


def autoencoder(factor: int = 2, **settings: Any) -> AutoencoderKL:
    """Latents of 4 channels, 1/factor of a picture's side."""
    blocks = factor.bit_length()
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(4,) * blocks,
        norm_num_groups=2,
        mid_block_add_attention=False,
        **settings,
    )


def spread(*networks: nn.Module) -> None:
    """Random values everywhere, so that no part of a network is without effect (many start at zero)."""
    for network in networks:
        for parameter in network.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5)
            else:
                nn.init.normal_(parameter, std=0.2)
                parameter.data += 0.5


def flow_scheduler(shift: float = 3.0, **settings: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(TIMESTEPS, shift=shift, **settings)


def save_sdxl(folder: Path, prediction: str = "epsilon", timesteps: int = TIMESTEPS, **settings: Any) -> Path:
    """Latents 4×4×4 of 8×8 pictures."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 8),
        layers_per_block=1,
        cross_attention_dim=8 + 12,
        attention_head_dim=4,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 8,
    )
    betas: Any = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.13),
        unet=unet,
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        text_encoder=clip_text(),
        text_encoder_2=clip_text(CLIPTextModelWithProjection, 12),
        scheduler=EulerDiscreteScheduler(
            timesteps, **betas, prediction_type=prediction, timestep_spacing="leading", steps_offset=1
        ),
        add_watermarker=False,
        **settings,
    ).save_pretrained(folder)
    return folder


def save_sd3(folder: Path, t5: bool = True, shift: float = 3.0, **scheduler: Any) -> Path:
    """Latents 4×4×4 of 8×8 pictures, with or without the T5."""
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=24,
        caption_projection_dim=16,
        pooled_projection_dim=14,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    spread(transformer)
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=flow_scheduler(shift, **scheduler),
        vae=autoencoder(scaling_factor=1.5, shift_factor=0.06),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=t5_tokenizer() if t5 else None,
        text_encoder=clip_text(CLIPTextModelWithProjection, 8, 8),
        text_encoder_2=clip_text(CLIPTextModelWithProjection, 12, 6),
        text_encoder_3=t5_text(width=24) if t5 else None,
    ).save_pretrained(folder)
    return folder


def save_flux(folder: Path, guidance_embeds: bool = True) -> Path:
    """Latents 4×8×8 of 16×16 pictures, packed to 16 tokens; levels shifted by the number of tokens."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=1,
        joint_attention_dim=12,
        pooled_projection_dim=8,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=guidance_embeds,
    )
    spread(transformer)
    FluxPipeline(
        transformer=transformer,
        scheduler=flow_scheduler(use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64),
        vae=autoencoder(scaling_factor=0.36, shift_factor=0.11),
        tokenizer=clip_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        text_encoder=clip_text(),
        text_encoder_2=t5_text(),
    ).save_pretrained(folder)
    return folder


def save_pixart(
    folder: Path, pipeline: Any = PixArtSigmaPipeline, side: int = 32, factor: int = 8, **settings: Any
) -> Path:
    """Latents 4×side×side of pictures of `factor` times the side; learned variances."""
    torch.manual_seed(0)
    transformer = PixArtTransformer2DModel(
        sample_size=side,
        num_layers=2,
        attention_head_dim=12,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=24,
        caption_channels=12,
        **settings,
    )
    spread(transformer)
    pipeline(
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(TIMESTEPS, 0.0001, 0.02, "linear"),
        vae=autoencoder(factor, scaling_factor=0.13),
        tokenizer=t5_tokenizer(),
        text_encoder=t5_text(),
    ).save_pretrained(folder)
    return folder


def save_wan(folder: Path, shift: float = 3.0) -> Path:
    """Latents 4×m+1×4×4 of clips of 4 m + 1 frames of 16×16."""
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=12,
        freq_dim=8,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    spread(transformer)
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 2.0, 0.7, 1.1],
        scale_factor_temporal=4,
        scale_factor_spatial=4,
    )
    WanPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_text(UMT5Config, UMT5EncoderModel),
        vae=vae,
        transformer=transformer,
        scheduler=UniPCMultistepScheduler(
            TIMESTEPS, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
        ),
    ).save_pretrained(folder)
    return folder


Save = Callable[[Path], Path]
EVERY: dict[str, Save] = {
    "sd": save_tiny_pipeline,
    "sd_v": lambda folder: save_tiny_pipeline(folder, "v_prediction"),
    "sdxl": save_sdxl,
    "sd3": save_sd3,
    "sd3_without_t5": lambda folder: save_sd3(folder, t5=False),
    "flux": save_flux,
    "flux_schnell": lambda folder: save_flux(folder, guidance_embeds=False),
    "pixart_sigma": save_pixart,
    "pixart_alpha": lambda folder: save_pixart(folder, PixArtAlphaPipeline),
    "wan": save_wan,
    "deepfloyd": save_tiny_if_pipeline,
}
"""By the name that tests have for each."""
FEW = [pytest.param(name, marks=() if name in {"sd", "flux", "wan"} else pytest.mark.slow) for name in EVERY]
"""The same for what no family has a way of its own for: a UNet, a transformer, a video model at every run."""
SIZES: dict[str, Sequence[int]] = {"flux": (16, 16), "flux_schnell": (16, 16), "wan": (5, 16, 16)}
"""`teacher.size` of those whose folder does not tell."""
