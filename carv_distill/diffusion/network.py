"""diffusers' UNets as raw networks F(x, c_noise, cond)."""

from __future__ import annotations

import copy

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn


class UNetNetwork(nn.Module):
    """F(x, c_noise, cond) by a :class:`diffusers.UNet2DModel`; `cond` is a class label per row.

    An unconditional network ignores the labels. Under autocast the last convolution still runs in
    float32: DMD lives on the difference of two almost equal outputs, which bfloat16 would round away.
    """

    def __init__(self, unet: UNet2DModel) -> None:
        super().__init__()
        self.unet = unet
        self.unet.conv_out.__class__ = _Float32Conv2d

    @property
    def labels(self) -> int:
        """Number of class embeddings; 0 for an unconditional network."""
        return self.unet.config.num_class_embeds or 0

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None) -> Tensor:
        labels = cond if self.labels else None
        return self.unet(x, c_noise, class_labels=labels, return_dict=False)[0]

    def trainable_copy(self) -> UNetNetwork:
        """An independent copy whose parameters learn, in float32 at least.

        It stays in eval mode: dropout would put noise of its own, from the global generator, into a
        difference of two networks.
        """
        network = copy.deepcopy(self).requires_grad_(True).eval()
        return network if network.unet.dtype == torch.float64 else network.float()


class TextUNetNetwork(nn.Module):
    """F(x, c_noise, cond) by a :class:`diffusers.UNet2DConditionModel`; `cond` is a prompt's embedding per
    row, [n, L, D]. Where the network predicts variances too, after F's channels, they are dropped."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None) -> Tensor:
        dtype = self.unet.dtype
        if cond is None:
            raise ValueError("a text-to-image network needs the embedding of a prompt")
        out = self.unet(x.to(dtype), c_noise, encoder_hidden_states=cond.to(dtype), return_dict=False)[0]
        return out[:, : x.shape[1]]


class _Float32Conv2d(nn.Conv2d):
    """A convolution that autocast leaves alone."""

    def forward(self, input: Tensor) -> Tensor:
        # Whatever comes in: CUDA's autocast runs the group norm before it in float32, the CPU's does not.
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))
