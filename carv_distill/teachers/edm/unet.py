"""The U-Net that DDPM++, NCSN++ and ADM share: encoder, middle, decoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from .block import BlockStyle, UNetBlock

Part = Callable[[str], nn.Module]
"""The part of that name at one side."""
Put = Callable[[str, nn.Module], None]
"""Adds a part at one side, under a name."""


class EDMUNet(ModelMixin, ConfigMixin):
    """F(x, c_noise, class labels) at sides S, S/2, …; `channel_mult[i]` times the model's channels at S/2^i.

    The parts are named as in the published files: `enc.32x32_block0`, `dec.8x8_in0` and so on.
    """

    enc: nn.ModuleDict
    dec: nn.ModuleDict
    map_label: nn.Linear | None

    def build(self, stem: int, channels: Sequence[int], style: BlockStyle, attention_up: str) -> None:
        """Makes `enc` and `dec`.

        Args:
            stem: channels after the first convolution.
            channels: of the blocks at each side, the largest side first.
            style: of the blocks.
            attention_up: "all" or "last": which of the decoder's blocks at an attention's side have it.
        """
        c = self.config
        self.sides = [c.img_resolution >> level for level in range(len(channels))]
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        kept, now, picture = [stem], stem, c.in_channels
        for side, width in zip(self.sides, channels, strict=True):
            put = partial(_put, self.enc, side)
            if side == self.sides[0]:
                put("conv", nn.Conv2d(c.in_channels, stem, 3, padding=1))
            else:
                put("down", UNetBlock(now, now, style, direction="down"))
                picture = self.add_side_input(put, picture, now)
                kept.append(now)
            for i in range(c.num_blocks):
                put(f"block{i}", UNetBlock(now, width, style, side in c.attn_resolutions))
                now = width
                kept.append(now)
        for side, width in zip(reversed(self.sides), reversed(channels), strict=True):
            put = partial(_put, self.dec, side)
            if side == self.sides[-1]:
                put("in0", UNetBlock(now, now, style, attention=True))
                put("in1", UNetBlock(now, now, style))
            else:
                put("up", UNetBlock(now, now, style, direction="up"))
            for i in range(c.num_blocks + 1):
                attention = side in c.attn_resolutions and (attention_up == "all" or i == c.num_blocks)
                put(f"block{i}", UNetBlock(now + kept.pop(), width, style, attention))
                now = width
            self.add_output(put, side, now)

    # ---------------------------------------------------------------- what the networks differ in

    @abstractmethod
    def embed(self, c_noise: Tensor, label: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """The embedding of noise level [n], one-hot label [n, classes] or None, augmentation: [n, E]."""

    def add_side_input(self, put: Put, picture: int, channels: int) -> int:
        """Adds what brings the picture, of so many channels, in at a lower side; its channels after that."""
        return picture

    def side_input(self, part: Part, x: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        """(x, picture) after the picture has come in."""
        return x, picture

    @abstractmethod
    def add_output(self, put: Put, side: int, channels: int) -> None:
        """Adds what makes an output at a side of the decoder."""

    @abstractmethod
    def output(self, part: Part, side: int, x: Tensor, out: Tensor | None) -> Tensor | None:
        """The output so far, after this side."""

    # ---------------------------------------------------------------- forward

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """F(sample, c_noise, label), called as diffusers' UNets are.

        Args:
            sample: c_in x_t, [n, C, S, S].
            timestep: c_noise, [n].
            class_labels: [n] integers; None, and any beyond the classes, is no label (the zero vector).
            augment_labels: [n, augment_dim], of training on augmented pictures; None is none.
        """
        embedding, x, kept = self._encoded(sample, timestep, class_labels, augment_labels)
        x = self._middle(x, embedding)
        out = None
        for side in reversed(self.sides):
            part = partial(_get, self.dec, side)
            if side != self.sides[-1]:
                x = part("up")(x, embedding)
            for i in range(self.config.num_blocks + 1):
                x = part(f"block{i}")(torch.cat([x, kept.pop()], 1), embedding)
            out = self.output(part, side, x, out)
        assert out is not None
        return UNet2DOutput(sample=out) if return_dict else (out,)

    def bottleneck(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The features between encoder and decoder, [n, C', s, s] at the lowest side s."""
        embedding, x, _ = self._encoded(sample, timestep, class_labels, None)
        return self._middle(x, embedding)

    def _encoded(
        self, x: Tensor, c_noise: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        embedding = self.embed(c_noise, self._one_hot(x, class_labels), augment_labels)
        picture, kept = x, []
        for side in self.sides:
            part = partial(_get, self.enc, side)
            if side == self.sides[0]:
                x = part("conv")(x)
            else:
                x, picture = self.side_input(part, part("down")(x, embedding), picture)
            kept.append(x)
            for i in range(self.config.num_blocks):
                x = part(f"block{i}")(x, embedding)
                kept.append(x)
        return embedding, x, kept

    def _middle(self, x: Tensor, embedding: Tensor) -> Tensor:
        part = partial(_get, self.dec, self.sides[-1])
        return part("in1")(part("in0")(x, embedding), embedding)

    def _one_hot(self, x: Tensor, class_labels: Tensor | None) -> Tensor | None:
        """[n, classes]; None for an unconditional network."""
        classes, n = self.config.label_dim, len(x)
        if not classes:
            return None
        if class_labels is None:
            return x.new_zeros(n, classes)
        hot = (class_labels[:, None] == torch.arange(classes, device=x.device)).to(x.dtype)
        if self.training and self.config.label_dropout:
            hot = hot * (torch.rand(n, 1, device=x.device) >= self.config.label_dropout)
        return hot


def _put(half: nn.ModuleDict, side: int, name: str, part: nn.Module) -> None:
    half[f"{side}x{side}_{name}"] = part


def _get(half: nn.ModuleDict, side: int, name: str) -> Any:
    return half[f"{side}x{side}_{name}"]
