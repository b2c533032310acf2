"""A frozen network at half the memory."""

from __future__ import annotations

import torch
from diffusers.models.embeddings import GaussianFourierProjection
from torch import Tensor, nn

from .float32 import Float32Conv2d
from .network import RawNetwork


class Bfloat16Network(nn.Module):
    """F(x, c_noise, cond) with weights kept in bfloat16, but for layers that autocast leaves alone.

    The network itself is changed, and computes under autocast. Frequencies of the noise level's embedding,
    as all buffers, stay in float32: of large phases little is left otherwise. So does the last convolution,
    as DMD lives on the difference of two almost equal outputs.
    """

    def __init__(self, network: RawNetwork) -> None:
        super().__init__()
        for module in network.modules():
            if not isinstance(module, Float32Conv2d | GaussianFourierProjection):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.to(torch.bfloat16)
        self.network = network

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.network(x, c_noise, cond)
