"""The U-Net that DDPM++, NCSN++ and ADM share: encoder, middle, decoder."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from carv_distill.teachers.condition import Cond, Condition
from carv_distill.teachers.network import ImageNetwork
from carv_distill.teachers.precision import Float32Conv2d, without_autocast

from .layers import BlockStyle, Resample, ResamplingConv2d, UNetBlock, group_norm


class EDMUNet(ModelMixin, ConfigMixin):
    """F(x, c_noise, class labels) at sides S, S/2, …; `channel_mult[i]` times the model's channels at S/2^i.

    The parts are named as in the published files, `enc.32x32_block0`, `dec.8x8_in0` and so on, and run in the
    order in which they were added.
    """

    map_label: nn.Linear | None

    def build(
        self,
        stem: int,
        channels: Sequence[int],
        style: BlockStyle,
        attention_up: str,
        encoder_type: str = "standard",
        decoder_type: str | None = None,
    ) -> None:
        """Makes `enc` and `dec`.

        Args:
            stem: channels after the first convolution.
            channels: of the blocks at each side, the largest side first.
            style: of the blocks.
            attention_up: "all" or "last": which of the decoder's blocks at an attention's side have it.
            encoder_type: standard, skip or residual: how the picture comes in at lower sides.
            decoder_type: standard or skip: one output, or a sum of one per side; None is :meth:`output`.
        """
        c, taps = self.config, style.taps
        self.sides = [c.img_resolution >> level for level in range(len(channels))]
        enc, dec = nn.ModuleDict(), nn.ModuleDict()
        skips, now, picture = [stem], stem, c.in_channels
        for side, width in zip(self.sides, channels, strict=True):
            at = f"{side}x{side}_"
            if side == self.sides[0]:
                enc[at + "conv"] = nn.Conv2d(c.in_channels, stem, 3, padding=1)
            else:
                enc[at + "down"] = UNetBlock(now, now, style, direction="down")
                if encoder_type == "skip":
                    enc[at + "aux_down"] = Resample("down", taps)
                    enc[at + "aux_skip"] = nn.Conv2d(picture, now, 1)
                elif encoder_type == "residual":
                    residual = ResamplingConv2d(picture, now, 3, "down", taps, convolve_first=True)
                    enc[at + "aux_residual"], picture = residual, now
                skips.append(now)
            for i in range(c.num_blocks):
                enc[f"{at}block{i}"] = UNetBlock(now, width, style, side in c.attn_resolutions)
                now = width
                skips.append(now)
        for side, width in zip(reversed(self.sides), reversed(channels), strict=True):
            at = f"{side}x{side}_"
            if side == self.sides[-1]:
                dec[at + "in0"] = UNetBlock(now, now, style, attention=True)
                dec[at + "in1"] = UNetBlock(now, now, style)
            else:
                dec[at + "up"] = UNetBlock(now, now, style, direction="up")
            for i in range(c.num_blocks + 1):
                attention = side in c.attn_resolutions and (attention_up == "all" or i == c.num_blocks)
                dec[f"{at}block{i}"] = UNetBlock(now + skips.pop(), width, style, attention)
                now = width
            if decoder_type == "skip" and side != self.sides[-1]:
                dec[at + "aux_up"] = Resample("up", taps)
            if decoder_type == "skip" or (decoder_type == "standard" and side == self.sides[0]):
                dec[at + "aux_norm"] = group_norm(now, style.eps)
                dec[at + "aux_conv"] = Float32Conv2d(now, c.out_channels, 3, padding=1)
        self.enc, self.dec = enc, dec

    @abstractmethod
    def embed(self, c_noise: Tensor, label: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """The embedding of noise level [n], one-hot label [n, classes] or None, augmentation: [n, E]."""

    def output(self, x: Tensor) -> Tensor:
        """F from the decoder's last features, where the decoder itself makes none."""
        raise TypeError(f"{type(self).__name__} does not say how it makes its output")

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
        embedding, x, skips = self._encoded(sample, timestep, class_labels, augment_labels)
        x, out, h = self._middle(x, embedding), None, x
        for name, part in self.dec.items():
            if name.endswith(("in0", "in1")):
                continue  # the middle
            if name.endswith("aux_up"):
                with without_autocast(x):
                    out = part(out)
            elif name.endswith("aux_norm"):
                h = F.silu(part(x))
            elif name.endswith("aux_conv"):
                h = part(h)
                with without_autocast(x):
                    out = h if out is None else out + h
            elif name.endswith("up"):
                x = part(x, embedding)
            else:
                x = part(torch.cat([x, skips.pop()], 1), embedding)
        out = self.output(x) if out is None else out
        return UNet2DOutput(sample=out) if return_dict else (out,)

    def encoder(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> list[Tensor]:
        """After the last block of each side, the lowest side first; the decoder is not computed."""
        _, _, skips = self._encoded(sample, timestep, class_labels, None)
        last = {skip.shape[-1]: skip for skip in skips}  # of the skips at one side the last stays
        return [last[side] for side in reversed(self.sides)]

    def _encoded(
        self, x: Tensor, c_noise: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        embedding = self.embed(c_noise, self._one_hot(x, class_labels), augment_labels)
        picture = x
        skips: list[Tensor] = []
        for name, part in self.enc.items():
            if name.endswith("aux_down"):
                picture = part(picture)
            elif name.endswith("aux_skip"):
                x = skips[-1] = x + part(picture)
            elif name.endswith("aux_residual"):
                x = picture = skips[-1] = (x + part(picture)) * math.sqrt(0.5)
            else:
                x = part(x) if name.endswith("conv") else part(x, embedding)
                skips.append(x)
        return embedding, x, skips

    def _middle(self, x: Tensor, embedding: Tensor) -> Tensor:
        at = f"{self.sides[-1]}x{self.sides[-1]}_"
        return self.dec[at + "in1"](self.dec[at + "in0"](x, embedding), embedding)

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


class EDMNetwork(ImageNetwork):
    """F(x, c_noise, cond) by a :class:`SongUNet` or :class:`DhariwalUNet`; `cond` is a class label per row.

    Where labels were dropped in training, the index after the last class is the null label.
    """

    size_key = "img_resolution"
    model: EDMUNet

    @property
    def labels(self) -> int:
        classes = self.model.config.label_dim
        return classes + 1 if classes and self.model.config.label_dropout else classes

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        return self.model(x, c_noise, cond, return_dict=False)[0]

    def encoder(self, x: Tensor, c_noise: Tensor, cond: Cond) -> list[Tensor]:
        assert not isinstance(cond, Condition)
        return self.model.encoder(x, c_noise, cond)
