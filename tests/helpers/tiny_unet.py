"""Networks small enough to build in milliseconds."""

from typing import Any

import torch
from diffusers import UNet2DModel


def tiny_unet(seed: int = 0, channels: int = 1, labels: int | None = None, **config: Any) -> UNet2DModel:
    """A random UNet for 8 × 8 images with 8 channels inside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DModel(
            **{
                "sample_size": 8,
                "in_channels": channels,
                "out_channels": channels,
                "block_out_channels": (8, 8),
                "layers_per_block": 1,
                "down_block_types": ("DownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "UpBlock2D"),
                "norm_num_groups": 4,
                "add_attention": False,
                "num_class_embeds": labels,
                **config,
            }
        )
