"""A frozen network at half the memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from carv_distill.carv import stream
from carv_distill.teachers.edm.networks import SongUNet
from carv_distill.teachers.edm.unet import EDMNetwork
from carv_distill.teachers.network import ImageNetwork, UNetNetwork
from carv_distill.teachers.precision import Bfloat16Network


def unet(embedding: str = "positional") -> ImageNetwork:
    return UNetNetwork(
        UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            num_class_embeds=4,
            time_embedding_type=embedding,
        )
    )


def fourier_unet() -> ImageNetwork:
    return unet("fourier")


def ncsn() -> ImageNetwork:
    return song(embedding_type="fourier", channel_mult_noise=2, encoder_type="residual")


def song(**kind: Any) -> ImageNetwork:
    network = SongUNet(
        **kind,
        img_resolution=8,
        in_channels=1,
        out_channels=1,
        label_dim=4,
        model_channels=16,
        channel_mult=[1, 2],
        num_blocks=1,
        attn_resolutions=[4],
    )
    for i, p in enumerate(network.parameters()):  # it starts at zero output
        p.data += 0.02 * torch.randn(p.shape, generator=stream("weights", i))
    return EDMNetwork(network)


@pytest.mark.parametrize("build", [unet, fourier_unet, song, ncsn])
def test_half_the_memory_and_an_output_close_to_float32(build: object) -> None:
    """Relative error below 2 %, a float32 result, and weights of half the size but for the last layer."""
    torch.manual_seed(0)
    network: ImageNetwork = build().eval().requires_grad_(False)  # type: ignore[operator]
    half = Bfloat16Network(copy.deepcopy(network))
    x = torch.randn(6, 1, 8, 8, generator=stream("x"))
    c_noise = torch.tensor([80.0, 10, 1, 0.1, 0.01, 0.002])
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    exact, found = network(x, c_noise, labels), half(x, c_noise, labels)
    assert found.dtype == torch.float32
    assert 0 < (found - exact).norm() < 0.02 * exact.norm()
    size = [sum(p.numel() * p.element_size() for p in n.parameters()) for n in (network, half)]
    assert size[1] < 0.53 * size[0]
