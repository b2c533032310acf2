"""The networks of published text-to-image and text-to-video models, by their published configurations.

Numbers are those of `unet/config.json` or `transformer/config.json` of the models that are named; what is not
here is diffusers' default. Weights are never needed: all is counted from shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    WanTransformer3DModel,
)
from torch import Tensor, nn

from carv_distill.teachers.adapters import matching_layers
from carv_distill.teachers.low_rank import PROJECTIONS


@dataclass(frozen=True)
class Published:
    """A network and the shapes of its inputs."""

    name: str
    model: type[Any]
    config: Mapping[str, Any]
    shape: tuple[int, ...]
    """Of one row of its input: latents, or Flux's tokens of 2×2 latents."""
    tokens: int
    """Of a prompt,"""
    width: int
    """and the numbers of each."""
    pooled: int = 0
    """Numbers of the pooled embedding, where the network takes one."""
    guided: bool = True
    """Whether guidance takes a second call; Flux is told its scale instead."""
    grid: int = 0
    """Side of Flux's square of tokens."""
    encoders: int = 0
    """Parameters of the text encoders, and of the"""
    codec: int = 0
    """image or video codec, by the same repositories."""

    def build(self) -> Any:
        """The network with random weights, on the device and in the mode that are on."""
        return self.model(**self.config)

    def call(self, network: Any, n: int) -> Tensor:
        """Its output for n samples."""
        first = next(network.parameters())
        like = {"device": first.device, "dtype": first.dtype}
        x = torch.zeros(n, *self.shape, **like)
        arguments: dict[str, Any] = {
            "timestep": torch.full((n,), 500.0, device=first.device),
            "encoder_hidden_states": torch.zeros(n, self.tokens, self.width, **like),
            "return_dict": False,
        }
        if self.model is UNet2DConditionModel:
            if self.pooled:
                added = {"text_embeds": torch.zeros(n, self.pooled, **like)}
                arguments["added_cond_kwargs"] = added | {"time_ids": torch.zeros(n, 6, **like)}
            return network(x, **arguments)[0]
        if self.pooled:
            arguments["pooled_projections"] = torch.zeros(n, self.pooled, **like)
        if self.grid:
            arguments["txt_ids"] = torch.zeros(self.tokens, 3, **like)
            arguments["img_ids"] = torch.zeros(self.grid**2, 3, **like)
            if self.config.get("guidance_embeds"):
                arguments["guidance"] = torch.ones(n, **like)
        return network(hidden_states=x, **arguments)[0]


def adapted_layers(model: nn.Module, targets: Sequence[str] = PROJECTIONS) -> dict[str, nn.Module]:
    """The layers that get adapters, by their names."""
    return {name: model.get_submodule(name) for name in matching_layers(model, targets, "targets")}


CLIP_L, CLIP_BIG_G, T5_XXL, UMT5_XXL = 123_060_480, 694_659_840, 4_762_310_656, 5_680_910_336
"""Parameters of the encoders, by their classes in transformers (a test counts them)."""
CODEC, VIDEO_CODEC = 83_653_863, 126_892_531

SD15 = Published(
    "SD 1.5",  # stable-diffusion-v1-5/stable-diffusion-v1-5, 512×512
    UNet2DConditionModel,
    {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    shape=(4, 64, 64),
    tokens=77,
    width=768,
    encoders=CLIP_L,
    codec=CODEC,
)
SDXL = Published(
    "SDXL",  # stabilityai/stable-diffusion-xl-base-1.0, 1024×1024
    UNet2DConditionModel,
    {
        "sample_size": 128,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (320, 640, 1280),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "use_linear_projection": True,
    },
    shape=(4, 128, 128),
    tokens=77,
    width=2048,
    pooled=1280,
    encoders=CLIP_L + CLIP_BIG_G,
    codec=CODEC,
)
SD3_MEDIUM = Published(
    "SD3-medium",  # stabilityai/stable-diffusion-3-medium-diffusers, 1024×1024
    SD3Transformer2DModel,
    {
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 24,
        "num_attention_heads": 24,
        "attention_head_dim": 64,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": 192,
    },
    shape=(16, 128, 128),
    tokens=333,  # 77 of the CLIP models and 256 of T5
    width=4096,
    pooled=2048,
    encoders=CLIP_L + CLIP_BIG_G + T5_XXL,
    codec=CODEC,
)
FLUX_DEV = Published(
    "Flux.1-dev",  # black-forest-labs/FLUX.1-dev, 1024×1024
    FluxTransformer2DModel,
    {
        "patch_size": 1,
        "in_channels": 64,
        "num_layers": 19,
        "num_single_layers": 38,
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "guidance_embeds": True,
    },
    shape=(4096, 64),
    tokens=512,
    width=4096,
    pooled=768,
    guided=False,
    grid=64,
    encoders=CLIP_L + T5_XXL,
    codec=CODEC,
)
WAN = Published(
    "Wan2.1-1.3B",  # Wan-AI/Wan2.1-T2V-1.3B-Diffusers, 81 frames of 480×832
    WanTransformer3DModel,
    {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 12,
        "attention_head_dim": 128,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 4096,
        "freq_dim": 256,
        "ffn_dim": 8960,
        "num_layers": 30,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
    },
    shape=(16, 21, 60, 104),
    tokens=512,
    width=4096,
    encoders=UMT5_XXL,
    codec=VIDEO_CODEC,
)
PUBLISHED = (SD15, SDXL, SD3_MEDIUM, FLUX_DEV, WAN)
