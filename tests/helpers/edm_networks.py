"""Small networks of every kind, with weights that depend on nothing but names and places."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor, nn

from carv_distill.teachers.edm.networks import DhariwalUNet, SongUNet
from carv_distill.teachers.edm.unet import EDMUNet

_NCSN = {"embedding_type": "fourier", "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1]}
_SHARED = {"img_resolution": 8, "in_channels": 3, "out_channels": 3, "num_blocks": 1, "attn_resolutions": [4]}
_SONG = {**_SHARED, "model_channels": 8}

CONFIGS: dict[str, dict[str, Any]] = {
    "ddpm++": {**_SONG, "channel_mult": [2, 2], "label_dim": 10, "augment_dim": 9},
    "ddpm++ unconditional": {**_SONG, "channel_mult": [1, 2], "num_blocks": 2, "attn_resolutions": [8]},
    "ncsn++": {**_SONG, **_NCSN, "channel_mult": [2, 2, 2], "label_dim": 10, "encoder_type": "residual"},
    "ncsn++ skip": {
        **_SONG,
        **_NCSN,
        "channel_mult": [1, 2, 2],
        "encoder_type": "skip",
        "decoder_type": "skip",
    },
    "adm": {**_SHARED, "model_channels": 64, "channel_mult": [1, 2], "label_dim": 10, "augment_dim": 3},
}


def small(name: str, **changes: Any) -> EDMUNet:
    """One of :data:`CONFIGS`, filled, in evaluation mode."""
    kind = DhariwalUNet if name == "adm" else SongUNet
    network = kind(**{**CONFIGS[name], **changes}).eval()
    fill(network)
    return network


@torch.no_grad()
def fill(network: nn.Module) -> None:
    """Entry i of tensor s is sin(1.618 i + crc32(s) mod 1009), scaled to keep activations near one."""
    for name, tensor in network.state_dict().items():
        if name.endswith("resample_filter"):
            continue
        phase = zlib.crc32(name.encode()) % 1009
        wave = torch.sin(1.618 * torch.arange(tensor.numel(), dtype=torch.float64) + phase).view(tensor.shape)
        if tensor.ndim > 1:
            wave *= (2 / tensor[0].numel()) ** 0.5
        elif name.endswith("freqs"):
            wave *= 2
        elif name.endswith("weight"):
            wave = 1 + wave / 10
        else:
            wave /= 10
        tensor.copy_(wave)


def inputs(augment: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """x [3, 3, 8, 8], c_noise [3], labels [3], augment_labels [3, augment] or None."""
    x = torch.sin(torch.arange(576, dtype=torch.float64) * 0.7).float().view(3, 3, 8, 8)
    c_noise, labels = torch.tensor([-1.2, 0.1, 0.9]), torch.tensor([0, 7, 9])
    augmented = torch.linspace(-1, 1, 3 * augment).view(3, augment) if augment else None
    return x, c_noise, labels, augmented
