"""Raw networks F(y, c_noise, cond): the face that all share, and diffusers' UNet of labelled images."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import ModelMixin, UNet2DModel
from torch import Tensor, nn

from .condition import Cond
from .precision import Float32Conv2d


class RawNetwork(nn.Module, ABC):
    """F(y, c_noise, cond) by a network that diffusers saves and loads."""

    def __init__(self, model: ModelMixin) -> None:
        super().__init__()
        self.model = model

    @property
    def config(self) -> Mapping[str, Any]:
        """The network's configuration, as its `config.json` has it."""
        return self.model.config

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of one row of y: (C, H, W), or (C, frames, H, W) of a video."""

    @abstractmethod
    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        """y [n, …], c_noise [n], cond of n rows or None → [n, …]."""

    @abstractmethod
    def encoder(self, x: Tensor, c_noise: Tensor, cond: Cond) -> list[Tensor]:
        """Features on the way to F, [n, C', h, w] each, as a discriminator reads them, the one to read alone
        first: of a UNet the encoder's last ones at each of its sides, the lowest side first."""

    def trainable_copy(self) -> Self:
        """An independent copy whose parameters learn, in float32 at least.

        It stays in eval mode: dropout would put noise of its own, from the global generator, into a
        difference of two networks.
        """
        network = copy.deepcopy(self).requires_grad_(True).eval()
        return network if network.model.dtype == torch.float64 else network.float()

    def save(self, folder: Path) -> None:
        """`config.json` and safetensors, as diffusers has them."""
        self.model.save_pretrained(folder, safe_serialization=True)


class ImageNetwork(RawNetwork):
    """F of square images, with labels or without: `cond` is a class label per row."""

    size_key: ClassVar[str] = "sample_size"
    """The key of :attr:`size` in the network's configuration."""

    @property
    def channels(self) -> int:
        """Channels of one image."""
        return self.model.config.in_channels

    @property
    def size(self) -> int:
        """Side of one image in pixels."""
        return self.model.config[self.size_key]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.channels, self.size, self.size

    @property
    @abstractmethod
    def labels(self) -> int:
        """Class embeddings, the null label included where there is one; 0 for an unconditional network."""


class UNetNetwork(ImageNetwork):
    """F by a :class:`diffusers.UNet2DModel`; an unconditional one ignores the labels. Under autocast the last
    convolution still runs in float32."""

    model: UNet2DModel

    def __init__(self, model: UNet2DModel) -> None:
        super().__init__(model)
        self.model.conv_out.__class__ = Float32Conv2d

    @property
    def labels(self) -> int:
        return self.model.config.num_class_embeds or 0

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        labels = cond if self.labels else None
        return self.model(x, c_noise, class_labels=labels, return_dict=False)[0]

    def encoder(self, x: Tensor, c_noise: Tensor, cond: Cond) -> list[Tensor]:
        return unet_features(self.model.down_blocks, lambda: self.forward(x, c_noise, cond))


def unet_features(down_blocks: Iterable[nn.Module], call: Callable[[], object]) -> list[Tensor]:
    """What each of diffusers' down blocks gives before it halves the side, the last block first; the whole
    network is computed by `call`."""

    def before(block: nn.Module, output: Any) -> Tensor:
        hidden, states = output[:2]
        return states[-2] if block.downsamplers else hidden

    return recorded(down_blocks, before, call)[::-1]


def recorded(
    modules: Iterable[nn.Module], pick: Callable[[nn.Module, Any], Tensor], call: Callable[[], object]
) -> list[Tensor]:
    """What `pick` takes of the output of each module, in the order in which `call` runs them. (A compiled
    network would know nothing of the hooks.)"""
    features: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda module, _, output: features.append(pick(module, output)))
        for module in modules
    ]
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    return features
