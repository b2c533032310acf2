"""Raw networks F(x, c_noise, cond): the face that they share, and diffusers' UNets behind it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import ModelMixin, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from .precision import Float32Conv2d


class RawNetwork(nn.Module, ABC):
    """F(x, c_noise, cond) of square images, by a network that diffusers saves and loads."""

    size_key: ClassVar[str] = "sample_size"
    """The key of :attr:`size` in the network's configuration."""

    def __init__(self, unet: ModelMixin) -> None:
        super().__init__()
        self.unet = unet

    @property
    def config(self) -> Mapping[str, Any]:
        """The network's configuration, as its `config.json` has it."""
        return self.unet.config

    @property
    def channels(self) -> int:
        """Channels of one image."""
        return self.unet.config.in_channels

    @property
    def size(self) -> int:
        """Side of one image in pixels."""
        return self.unet.config[self.size_key]

    @property
    @abstractmethod
    def labels(self) -> int:
        """Class embeddings, the null label included where there is one; 0 for an unconditional network."""

    @abstractmethod
    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None) -> Tensor:
        """x [n, C, s, s], c_noise [n], labels [n] or None → [n, C, s, s]."""

    @abstractmethod
    def encoder(self, x: Tensor, c_noise: Tensor, cond: Tensor | None) -> list[Tensor]:
        """The encoder's last features at each of its sides on the way to F, the lowest side first,
        [n, C', s, s] each: what a discriminator reads."""

    def trainable_copy(self) -> Self:
        """An independent copy whose parameters learn, in float32 at least.

        It stays in eval mode: dropout would put noise of its own, from the global generator, into a
        difference of two networks.
        """
        network = copy.deepcopy(self).requires_grad_(True).eval()
        return network if network.unet.dtype == torch.float64 else network.float()

    def save(self, folder: Path) -> None:
        """`config.json` and safetensors, as diffusers has them."""
        self.unet.save_pretrained(folder, safe_serialization=True)


class UNetNetwork(RawNetwork):
    """F(x, c_noise, cond) by a :class:`diffusers.UNet2DModel`; `cond` is a class label per row.

    An unconditional network ignores the labels. Under autocast the last convolution still runs in float32.
    """

    unet: UNet2DModel

    def __init__(self, unet: UNet2DModel) -> None:
        super().__init__(unet)
        self.unet.conv_out.__class__ = Float32Conv2d

    @property
    def labels(self) -> int:
        return self.unet.config.num_class_embeds or 0

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None) -> Tensor:
        labels = cond if self.labels else None
        return self.unet(x, c_noise, class_labels=labels, return_dict=False)[0]

    def encoder(self, x: Tensor, c_noise: Tensor, cond: Tensor | None) -> list[Tensor]:
        """What each down block gives before it halves the side; the whole network is computed."""
        features: list[Tensor] = []

        def record(block: nn.Module, inputs: Any, output: Any) -> None:
            hidden, states = output[:2]
            features.append(states[-2] if block.downsamplers else hidden)

        hooks = [block.register_forward_hook(record) for block in self.unet.down_blocks]
        try:
            self.forward(x, c_noise, cond)  # a compiled call would know nothing of the hooks
        finally:
            for hook in hooks:
                hook.remove()
        return features[::-1]


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
